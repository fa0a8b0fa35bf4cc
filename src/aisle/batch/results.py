"""The result of a batch, streamed in the format that is asked for, one group of rows at a time.

What there is of a batch that is not done yet is the parts from its beginning on, without a gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

import polars as pl

from aisle.batch.parts import GROUP_ROWS, Parts


def result_frames(parts: Parts) -> Iterator[pl.DataFrame]:
    """The rows of a result that is whole. Raises FileNotFoundError where it is not there."""
    table = pl.scan_parquet(parts.output.path)
    rows = table.select(pl.len()).collect().item()
    for start in range(0, max(rows, 1), GROUP_ROWS):
        yield table.slice(start, GROUP_ROWS).collect()


def partial_frames(parts: Parts) -> Iterator[pl.DataFrame]:
    """The rows that are done from the first on."""
    there = parts.there()
    if not there and parts.output.exists():  # it was put together just now
        yield from result_frames(parts)
        return
    for number in count():
        if number not in there:
            return
        try:
            yield parts.read(number)
        except FileNotFoundError:  # put together, or deleted, meanwhile
            return


def as_csv(frames: Iterable[pl.DataFrame]) -> Iterator[bytes]:
    """With one header."""
    for number, frame in enumerate(frames):
        yield frame.write_csv(include_header=number == 0).encode()


def as_ndjson(frames: Iterable[pl.DataFrame]) -> Iterator[bytes]:
    for frame in frames:
        yield frame.write_ndjson().encode()

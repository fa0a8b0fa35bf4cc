"""Lists that are long: page by page, and whole as CSV, written while it is read from the database."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, TypeVar

from fastapi.responses import StreamingResponse
from sqlalchemy import Connection, Engine

from aisle.excerpts import no_formula
from aisle.store.engine import reading

PAGE = 50
ROWS_AT_ONCE = 500
LARGEST_ID = 2**62
MOST_DIGITS = 18

Row = TypeVar("Row")


def one_page(rows: Iterable[Row]) -> tuple[list[Row], bool]:
    """What fits a page, and whether there is more, of `PAGE` + 1 rows."""
    found = list(rows)
    return found[:PAGE], len(found) > PAGE


def name_of(text: str) -> str:
    """A name to look for, as an address says it. PostgreSQL refuses one character, which no name has.

    >>> name_of("anne\\0 ")
    'anne\ufffd'
    """
    return text.replace("\0", "\ufffd").strip()


def page_of(text: str) -> int:
    """The number of a page, as an address says it; the first for what is no number."""
    return before_of(text) or 1


def before_of(text: str) -> int | None:
    """From where to go on, as an address says it; None for what is no id."""
    if not (text.isascii() and text.isdigit()):
        return None
    return int(text) if len(text) <= MOST_DIGITS else LARGEST_ID  # Python reads no number of thousands of digits


def as_csv(
    engine: Engine,
    name: str,
    columns: Sequence[str],
    rows: Callable[[Connection], Iterator[Sequence[Any]]],
) -> StreamingResponse:
    """The file `name`. A text that a spreadsheet would compute is quoted."""
    reader: AbstractContextManager[Connection] = reading(engine)

    def read() -> Iterator[Sequence[Any]]:
        with reader as connection:
            yield from rows(connection)

    return csv_of(name, columns, read())


def csv_of(name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> StreamingResponse:
    """As `as_csv`, of rows that come from elsewhere."""
    left = iter(rows)
    return frames_as_csv(name, columns, iter(lambda: list(islice(left, ROWS_AT_ONCE)), []))


def frames_as_csv(name: str, columns: Sequence[str], groups: Iterable[Iterable[Sequence[Any]]]) -> StreamingResponse:
    """The same of rows that come in groups, each of which is sent when it is there."""

    def blocks() -> Iterator[str]:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\r\n")
        writer.writerow(columns)
        for group in groups:
            writer.writerows([no_formula(value) for value in row] for row in group)
            yield out.getvalue()
            out.seek(0), out.truncate()
        yield out.getvalue()

    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(blocks(), media_type="text/csv; charset=utf-8", headers=headers)

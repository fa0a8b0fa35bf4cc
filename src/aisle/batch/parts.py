"""The parts of a result, one for each piece of its table, until they are put together; a run that stopped goes on.

    .OUTPUT.parts/part-000007.parquet    whole or absent
    .OUTPUT.parts/_plan.json             of what: the table, the model, the pieces

Any process may write a part, and may write it twice: it is the same. `finish` makes of them one CSV or parquet file,
or a folder of parquet files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from aisle.batch.places import Place
from aisle.errors import AisleError, CheckFailed, UsageError
from aisle.files import TEMPORARY_PREFIX, fsync, sha256_json
from aisle.logs import get_logger

PLAN = "_plan.json"
PART = "part-{:06}.parquet"
PART_NAME = re.compile(r"part-(\d+)\.parquet")
GROUP_ROWS = 50_000
_ARROW = pl.CompatLevel.oldest()  # the types that every reader of parquet knows
CSV, PARQUET = ".csv", ".parquet"


@dataclass(frozen=True, slots=True)
class BulkResult:
    output: str
    rows: int
    predicted: int
    accepted: int
    errors: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of `output`, in `folder`."""

    output: Place
    folder: Place
    partitioned: bool = False

    def write(self, number: int, part: pl.DataFrame) -> None:
        buffer = io.BytesIO()  # Polars' own errors do not tell a full disk from a table that cannot be written
        part.write_parquet(buffer)
        try:
            (self.folder / PART.format(number)).write_bytes(buffer.getvalue())
        except OSError as error:
            error.filename = str(self.output)  # which is what the user knows
            raise

    def read(self, number: int) -> pl.DataFrame:
        return pl.read_parquet(io.BytesIO((self.folder / PART.format(number)).read_bytes()))

    def there(self) -> set[int]:
        """The numbers of the parts that are written."""
        names = (one.name for one in self.folder.files((PARQUET,)))
        return {int(found[1]) for name in names if (found := PART_NAME.fullmatch(name))}

    def finish(self, count: int, empty: pl.DataFrame) -> BulkResult:
        """Put `count` parts together, and remove them. `empty` has the columns of a result without rows."""
        numbers = range(count)
        if self.partitioned:
            if not count:  # a folder without a file would tell no reader its columns
                self.write(0, empty)
            counts = _counted(map(self.read, numbers))
            if not self.output.is_s3:
                self._take_its_place()
            (self.output / PLAN).remove()
        else:
            counts = self.assemble(count, empty)
            self.folder.remove()
        return BulkResult(str(self.output), counts.rows, counts.predicted, counts.accepted, counts.errors)

    def _take_its_place(self) -> None:
        """Let the folder be the output. An earlier one goes last: whoever is killed in between can go on."""
        for left in self.folder.path.glob(f"{TEMPORARY_PREFIX}*"):  # of processes that were killed
            left.unlink()
        earlier = self.output.beside(f".{self.output.name}.earlier")
        if self.output.path.is_dir():
            earlier.remove()
            self.output.path.rename(earlier.path)
        self.folder.path.rename(self.output.path)
        fsync(self.output.path.parent)
        earlier.remove()

    def assemble(self, count: int, empty: pl.DataFrame) -> Counts:
        """Put `count` parts together in one file, and leave them where they are."""
        counts = Counts()
        with self.output.create() as stream:
            write_frames(counts.seen(map(self.read, range(count))), empty, stream, self.output.suffix)
        return counts


class Counts:
    """Counts rows of a result as they pass."""

    def __init__(self) -> None:
        self.rows = self.predicted = self.accepted = self.errors = 0

    def add(self, part: pl.DataFrame) -> None:
        self.rows += len(part)
        self.predicted += len(part) - part["predicted"].null_count()
        self.accepted += int((part["decision"] == "accept").sum())
        self.errors += len(part) - part["error"].null_count()

    def seen(self, parts: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        for part in parts:
            self.add(part)
            yield part


def _counted(parts: Iterator[pl.DataFrame]) -> Counts:
    counts = Counts()
    for part in parts:
        counts.add(part)
    return counts


def write_frames(
    frames: Iterator[pl.DataFrame], empty: pl.DataFrame, stream: Any, suffix: str, *, group: int = GROUP_ROWS
) -> None:
    """Write parts one behind the other as CSV or parquet, with few of them in memory.

    `group`: rows that a reader of parquet reads together.
    """
    if suffix == CSV:
        stream.write(empty.write_csv().encode())
        for frame in frames:
            stream.write(frame.write_csv(include_header=False).encode())
        return
    import pyarrow.parquet as pq  # noqa: PLC0415  who only reads a result does without

    schema = empty.to_arrow(compat_level=_ARROW).schema
    with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for rows in _groups(frames, group):
            writer.write_table(rows.to_arrow(compat_level=_ARROW), row_group_size=group)


def _groups(frames: Iterator[pl.DataFrame], least: int) -> Iterator[pl.DataFrame]:
    """The same rows in larger frames, which is what parquet is good at."""
    waiting: list[pl.DataFrame] = []
    rows = 0
    for frame in frames:
        waiting.append(frame)
        rows += len(frame)
        if rows >= least:
            yield pl.concat(waiting)
            waiting, rows = [], 0
    if waiting:
        yield pl.concat(waiting)


@contextlib.contextmanager
def open_parts(
    output: Place, plan: dict[str, Any], *, resume: bool, partitioned: bool
) -> Iterator[tuple[Parts, set[int]]]:
    """The parts of `output`, and the numbers of those that an interrupted run of the same `plan` has left.

    Raises UsageError for an output of another kind, and for the parts of another plan; CheckFailed while another run
    on this machine is at it.
    """
    _check_output(output, partitioned=partitioned)
    folder = output if partitioned and output.is_s3 else output.beside(f".{output.name}.parts")
    parts = Parts(output, folder, partitioned)
    with contextlib.ExitStack() as stack:
        if not folder.is_s3:
            stack.enter_context(_alone(folder.path))
        found = _left_over(parts, sha256_json(plan), resume=resume)
        try:
            yield parts, found
        except BaseException:
            with contextlib.suppress(AisleError, OSError):  # what is told is what went wrong first
                if folder.exists() and not parts.there():
                    folder.remove()
            raise


def _left_over(parts: Parts, plan: str, *, resume: bool) -> set[int]:
    marker = parts.folder / PLAN
    found = parts.there() if marker.exists() else set()
    if found and not resume:
        get_logger(__name__).warning("what an interrupted run left is begun anew", parts=len(found))
        found = set()
    elif found and json.loads(marker.read_bytes()) != plan:
        raise UsageError(
            "what is left here is of another run: the table, the model or an option has changed",
            where=parts.folder,
            hint="Without --resume it is begun anew.",
        )
    if not found:
        for left in parts.folder.files():
            left.remove()
        marker.write_bytes(json.dumps(plan).encode())
    return found


def _check_output(output: Place, *, partitioned: bool) -> None:
    if partitioned:
        if not all(PART_NAME.fullmatch(name) or name == PLAN for name in _names_in(output)):
            raise UsageError(
                "holds something else than parts of a result", where=output, hint="Name another --output."
            )
        return
    if output.suffix not in (CSV, PARQUET):
        raise UsageError(
            f"the output is .csv or .parquet, not {output.suffix or 'without an ending'}",
            where=output,
            hint="With --partitioned it is a folder.",
        )
    if not output.is_s3 and output.path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(output))


def _names_in(output: Place) -> list[str]:
    """What would be lost with an output that is a folder. A file is in itself."""
    if output.is_s3 or not output.path.is_dir():
        return [one.name for one in output.files()]
    return [path.name for path in output.path.iterdir() if not path.name.startswith(TEMPORARY_PREFIX)]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder, which is made, for this run. It may be gone at the end."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckFailed("another run is writing this output", where=folder, hint="Wait for it.") from None
        yield
    finally:
        os.close(handle)

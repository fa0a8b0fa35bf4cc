"""What a person sees of a batch: a table beside its result, with a row for each, narrow enough to look through.

BATCH_ID/glances/part-0002049.parquet    the rows from this one on, as soon as they are done
BATCH_ID/glances.parquet                 all of them, at the end

The worker writes it, who has the product's table open anyway; so a page needs neither that table, which may lie in
S3, nor the directory of a zip with a million images: where in the zip an image begins is in the row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from aisle.batch.parts import GROUP_ROWS, PART, Parts, write_frames
from aisle.batch.places import Place

SCHEMA = {
    "row": pl.Int64,
    "key": pl.String,
    "title": pl.String,
    "image_at": pl.Int64,
    "image_bytes": pl.Int64,
    "predicted": pl.String,
    "label": pl.String,
    "confidence": pl.Float64,
    "decision": pl.String,
    "error": pl.String,
}
"""`row` from 1; `image_at`: where in the zip its image begins, packed into so many `image_bytes`."""
TITLE = 300
"""Characters of a title, or where there is none, of a description."""
ROWS_TOGETHER = 10_000
"""A page is read from few of these groups; a smaller one would make the whole slower to look through."""
PARTS_TOGETHER, PARTS_AT_ONCE = 25, 500
"""Of a batch that runs, so many parts are looked through for one page, a few at a time until it is full."""
PARTS_COUNTED = 100
"""While a batch has no more parts, its rows are counted as those of a whole one are."""
MOST_COUNTED = 5_000_000
"""Rows of a table whose rows are counted by what they say; of a longer one only pages are read."""
KEPT_COUNTS = 256

NONE = "none"
"""Instead of a decision: that there is none."""
WITH, WITHOUT = "with", "without"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Rows to look for; what is empty, or None, does not matter. `error`: `WITH` one, or `WITHOUT`."""

    type: str = ""
    decision: str = ""
    low: float | None = None
    high: float | None = None
    error: str = ""

    @property
    def expressions(self) -> dict[str, pl.Expr]:
        found: dict[str, pl.Expr] = {}
        if self.type:
            found["type"] = pl.col("predicted") == self.type
        if self.decision:
            none = pl.col("decision").is_null()
            found["decision"] = none if self.decision == NONE else pl.col("decision") == self.decision
        if self.error:
            has_none = pl.col("error").is_null()
            found["error"] = has_none if self.error == WITHOUT else ~has_none
        if self.low is not None or self.high is not None:
            highest = 1.0 if self.high is None else self.high
            found["confidence"] = pl.col("confidence").is_between(self.low or 0.0, highest)
        return found


@dataclass(frozen=True, slots=True)
class TypeCount:
    code: str
    label: str
    rows: int


@dataclass(frozen=True, slots=True)
class RowCounts:
    """How many rows there are of each kind: of those that all other filters let through. `rows` pass all of them."""

    rows: int
    types: tuple[TypeCount, ...]
    decisions: dict[str, int]
    errors: dict[str, int]


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, and behind which to go on, None: these were the last. `counts` is None where nobody counted.

    `previous`: behind which the page ahead of it begins; 0 for the first page, and while a batch runs.
    A page of a batch that runs may have fewer rows than fit it, and others follow all the same.
    """

    rows: list[dict[str, Any]]
    next: int | None
    previous: int
    counts: RowCounts | None


class Glances:
    """Those of the batch whose files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._parts = Parts(Place(str(folder / "glances.parquet")), Place(str(folder / "glances")))

    # What a worker does

    def write(self, first: int, rows: pl.DataFrame) -> None:
        """Of a piece of the table whose first row is `first`, from 1."""
        self._parts.write(first, rows)

    def finish(self) -> None:
        """Put the parts together, and leave them where they are."""
        frames = (self._parts.read(number) for number in sorted(self._parts.there()))
        with self._parts.output.create() as stream:
            write_frames(frames, pl.DataFrame(schema=SCHEMA), stream, self._parts.output.suffix, group=ROWS_TOGETHER)

    def remove_parts(self) -> None:
        self._parts.folder.remove()

    # What a page asks

    @property
    def are_whole(self) -> bool:
        return self._parts.output.path.exists()

    @property
    def changed_at(self) -> float | None:
        """When the last rows were added; None: there are none."""
        for place in (self._parts.output.path, self._parts.folder.path):
            if place.exists():
                return place.stat().st_mtime
        return None

    def page(self, wanted: Wanted, *, after: int, count: int, rows: int | None) -> Page:
        """At most `count` rows behind row `after`. `rows`: how many the table has."""
        return self._again_if_moved(lambda: self._page(wanted, after, count, rows))

    def find(self, row: int) -> dict[str, Any] | None:
        """One row."""
        return self._again_if_moved(lambda: self._find(row))

    def frames(self, wanted: Wanted) -> Iterator[pl.DataFrame]:
        """All rows that are there, group by group."""
        expressions = tuple(wanted.expressions.values())
        if self.are_whole:
            table = pl.scan_parquet(self._parts.output.path)
            total = table.select(pl.len()).collect().item()
            for start in range(0, total, GROUP_ROWS):
                yield table.slice(start, GROUP_ROWS).filter(*expressions).collect()
            return
        for number in sorted(self._parts.there()):
            try:
                part = self._parts.read(number)
            except FileNotFoundError:  # put together, or deleted, meanwhile
                return
            yield part.filter(*expressions)

    def _page(self, wanted: Wanted, after: int, count: int, rows: int | None) -> Page:
        found: list[dict[str, Any]] = []
        beyond: int | None = None
        for table, beyond in self._tables(after):  # noqa: B007  where the last one ended
            rest = table.filter(pl.col("row") > after, *wanted.expressions.values()).head(count + 1 - len(found))
            found += rest.collect(engine="streaming").to_dicts()
            if len(found) > count:
                break
        following = found[count - 1]["row"] if len(found) > count else beyond
        return Page(found[:count], following, self._previous(wanted, after, count), self._counts(wanted, rows))

    def _previous(self, wanted: Wanted, after: int, count: int) -> int:
        if not after or not self.are_whole:
            return 0
        before = pl.scan_parquet(self._parts.output.path).filter(pl.col("row") <= after, *wanted.expressions.values())
        rows = before.select("row").tail(count + 1).collect(engine="streaming")["row"]
        return int(rows[0]) if len(rows) > count else 0

    def _find(self, row: int) -> dict[str, Any] | None:
        table, _ = next(self._tables(row - 1, together=1), (pl.LazyFrame(schema=SCHEMA), None))
        return next(iter(table.filter(pl.col("row") == row).head(1).collect().to_dicts()), None)

    def _tables(self, after: int, *, together: int = PARTS_TOGETHER) -> Iterator[tuple[pl.LazyFrame, int | None]]:
        """The rows to look through, with all behind `after`, and behind which row others follow; None: no others."""
        if self.are_whole:
            yield pl.scan_parquet(self._parts.output.path), None
            return
        numbers = sorted(self._parts.there())
        numbers = numbers[max(bisect_right(numbers, after + 1) - 1, 0) :]
        for start in range(0, min(len(numbers), PARTS_AT_ONCE), together):
            stop = min(start + together, PARTS_AT_ONCE)
            yield self._scan(numbers[start:stop]), numbers[stop] - 1 if stop < len(numbers) else None

    def _scan(self, numbers: Sequence[int]) -> pl.LazyFrame:
        return pl.scan_parquet([self._parts.folder.path / PART.format(number) for number in numbers])

    def _counts(self, wanted: Wanted, rows: int | None) -> RowCounts | None:
        if self.are_whole:
            if rows is None or rows > MOST_COUNTED:
                return None
            path = self._parts.output.path
            cube = _kept_cube(path, path.stat().st_mtime_ns, wanted.low, wanted.high)
        else:
            numbers = sorted(self._parts.there())
            if not 0 < len(numbers) <= PARTS_COUNTED:
                return None
            cube = _cube(self._scan(numbers), wanted)
        return _counted(cube, wanted)

    def _again_if_moved(self, look: Callable[[], T]) -> T:
        """Parts go when the whole is there: who was about to read them reads that."""
        try:
            return look()
        except (FileNotFoundError, pl.exceptions.PolarsError):
            return look()


def glances_of(
    part: pl.DataFrame, *, first: int, table: pl.DataFrame, keys: pl.Series, images: Sequence[tuple[int, int] | None]
) -> pl.DataFrame:
    """Of a part of a result, from row `first` on, and the rows of the `table` that it is of, under our names.

    An image that could not be used is none to look at, either.
    """
    nothing = pl.lit(None, pl.String)
    texts = [pl.col(name).str.slice(0, TITLE) for name in ("title", "description") if name in table.columns]
    places = [
        place if place is not None and error is None else (None, None)
        for place, error in zip(images, part["error"], strict=True)
    ]
    columns = {
        "row": pl.Series(range(first, first + len(part)), dtype=pl.Int64),
        "key": keys.cast(pl.String),
        "title": table.select(pl.coalesce(*texts, nothing).alias("title"))["title"],
        "image_at": pl.Series([at for at, _ in places], dtype=pl.Int64),
        "image_bytes": pl.Series([size for _, size in places], dtype=pl.Int64),
    }
    return pl.DataFrame({**columns, **{name: part[name] for name in SCHEMA if name not in columns}})


@lru_cache(maxsize=KEPT_COUNTS)
def _kept_cube(path: Path, _version: int, low: float | None, high: float | None) -> pl.DataFrame:
    """Of a table that changes no more; a few hundred rows, whatever the table has."""
    return _cube(pl.scan_parquet(path), Wanted(low=low, high=high))


def _cube(table: pl.LazyFrame, wanted: Wanted) -> pl.DataFrame:
    """So many rows of each type, decision, and with an error or not, in one pass; of that confidence."""
    within = wanted.expressions.get("confidence", pl.lit(True))
    return (
        table.filter(within)
        .group_by("predicted", "decision", pl.col("error").is_null().alias("is_good"))
        .agg(pl.col("label").first(), pl.len().alias("rows"))
        .collect(engine="streaming")
    )


def _counted(cube: pl.DataFrame, wanted: Wanted) -> RowCounts:
    tests = {name: test for name, test in wanted.expressions.items() if name != "confidence"}
    if "error" in tests:
        tests["error"] = pl.col("is_good") if wanted.error == WITHOUT else ~pl.col("is_good")

    def others(name: str) -> pl.DataFrame:
        return cube.filter(*(test for one, test in tests.items() if one != name))

    of_types = others("type").drop_nulls("predicted").group_by("predicted")
    by_type = of_types.agg(pl.col("label").first(), pl.col("rows").sum())
    by_decision = others("decision").group_by(pl.col("decision").fill_null(NONE)).agg(pl.col("rows").sum())
    with_error = others("error").group_by("is_good").agg(pl.col("rows").sum())
    return RowCounts(
        int(others("")["rows"].sum()),
        tuple(TypeCount(*row) for row in by_type.sort("rows", "predicted", descending=[True, False]).iter_rows()),
        dict(by_decision.iter_rows()),
        {WITHOUT if is_good else WITH: rows for is_good, rows in with_error.iter_rows()},
    )

"""Reports that are tables in files, for pages: where their rows are is found once, and a page reads its rows alone.

A table is read whole once for each version of its file: 100,000 rows are then some bytes each in memory. The file is
kept open, so that a report that is written anew, which replaces it, leaves a page that is being read as it was.
"""

from __future__ import annotations

import csv
import io
import os
import threading
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aisle.batch.csv_file import MAX_CELL
from aisle.console.tables import PAGE
from aisle.errors import InputError

MOST_KEPT = 16


class Row(dict[str, str]):
    """The cells of a row by their column; a column that a report of before had not is empty."""

    def __missing__(self, name: str) -> str:
        return ""


Facets = Callable[[Row], Iterable[str]]
"""By what a row can be found: each facet that a reader may ask for."""


@dataclass(frozen=True, slots=True)
class Page:
    """`rows` of one page, `number` from 1 on, out of `count` in all."""

    rows: Sequence[Sequence[Row]]
    number: int
    count: int

    @property
    def pages(self) -> int:
        return max(1, (self.count + PAGE - 1) // PAGE)

    @property
    def is_last(self) -> bool:
        return self.number >= self.pages


class Listing:
    """One version of a file. What it lists are rows, or, with `group`, what has the same value there in a row."""

    def __init__(self, file: int, facets: Facets, group: str = "") -> None:
        """`file` is open for reading; it is closed with the listing."""
        self._file = file
        weakref.finalize(self, os.close, file)
        self.at = datetime.fromtimestamp(os.fstat(file).st_mtime, tz=UTC)
        self._places = array("Q")
        self._by_facet: dict[str, array[int]] = {}
        self.columns: tuple[str, ...] = ()
        self._find_rows(facets, group)

    def __len__(self) -> int:
        return len(self._places) - 1

    def count(self, facet: str) -> int:
        return len(self._by_facet.get(facet, ()))

    def facets(self) -> Iterator[tuple[str, int]]:
        """Each with how many it finds."""
        return ((facet, len(found)) for facet, found in self._by_facet.items())

    def page(self, number: int, facet: str = "") -> Page:
        """The last page, for a number beyond it."""
        found = self._found(facet)
        number = max(1, min(number, (len(found) + PAGE - 1) // PAGE))
        places = found[(number - 1) * PAGE : number * PAGE]
        return Page([self._read(place) for place in places], number, len(found))

    def rows(self, facet: str = "") -> Iterator[Sequence[str]]:
        """All cells of all rows, in the order of `columns`."""
        for place in self._found(facet):
            for row in self._read(place):
                yield [row[name] for name in self.columns]

    def _found(self, facet: str) -> Sequence[int]:
        return self._by_facet.get(facet, array("I")) if facet else range(len(self))

    def _read(self, place: int) -> list[Row]:
        begins, ends = self._places[place], self._places[place + 1]
        content = os.pread(self._file, ends - begins, begins)
        return [self._row(cells) for cells in _cells(io.BytesIO(content))]

    def _row(self, cells: Sequence[str]) -> Row:
        """What a row lacks is empty, and what it has too much is left out."""
        return Row(zip(self.columns, cells, strict=False))

    def _find_rows(self, facets: Facets, group: str) -> None:
        read = 0

        def lines() -> Iterator[bytes]:
            nonlocal read
            with open(self._file, "rb", closefd=False) as stream:
                for line in stream:
                    read += len(line)
                    yield line

        records = _cells(lines())
        self.columns = tuple(next(records, ()))
        before: str | None = None
        begins = read
        for cells in records:
            row = self._row(cells)
            if not group or row[group] != before:
                before = row[group] if group else None
                self._places.append(begins)
            for facet in dict.fromkeys(facets(row)):
                places = self._by_facet.setdefault(facet, array("I"))
                if not places or places[-1] != len(self._places) - 1:
                    places.append(len(self._places) - 1)
            begins = read
        self._places.append(read)


def _cells(lines: Iterable[bytes]) -> Iterator[list[str]]:
    """Each record, as soon as its last line is read; a file of another encoding shows what it has in its place."""
    csv.field_size_limit(MAX_CELL)  # of all readers of this process
    texts = (line.decode("utf-8", "replace") for line in lines)
    return (cells for cells in csv.reader(texts) if cells)


class Shelf:
    """The listings of one process. May be asked from several threads: one file's reading keeps no other's readers."""

    def __init__(self) -> None:
        self._kept: dict[Path, tuple[tuple[int, int, int], Listing]] = {}
        """The one asked for last is the last."""
        self._lock = threading.Lock()
        self._reading: weakref.WeakValueDictionary[Path, _Turn] = weakref.WeakValueDictionary()

    def find(self, path: Path, facets: Facets, group: str = "") -> Listing | None:
        """The file as it is now; None where there is none. Raises InputError for one that is no table."""
        with self._lock:
            turn = self._reading.setdefault(path, _Turn())
        with turn.lock:
            try:
                stat = path.stat()
                version = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
                with self._lock:
                    known = self._kept.get(path)
                if known is None or known[0] != version:
                    known = version, Listing(os.open(path, os.O_RDONLY), facets, group)
            except OSError:
                return None
            except csv.Error as error:
                raise InputError(f"cannot be read as a table: {error}", where=path) from None
            self._keep(path, known)
            return known[1]

    def _keep(self, path: Path, known: tuple[tuple[int, int, int], Listing]) -> None:
        with self._lock:
            self._kept.pop(path, None)
            self._kept[path] = known
            if len(self._kept) > MOST_KEPT:
                del self._kept[next(iter(self._kept))]


class _Turn:
    """Of one file, as long as somebody reads it or waits to."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

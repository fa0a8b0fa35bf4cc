"""Tables in files: each row on one page, by what it is filtered for, and none is read that is not shown."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from aisle.console.listings import Listing, Row, Shelf
from aisle.console.tables import PAGE
from aisle.errors import InputError

MANY = 123


def colours(row: Row) -> Iterable[str]:
    return row["colours"].split()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "table.csv", [(str(number), f'"é,\n{number}"', "red" if number % 3 else "red blue")
                                          for number in range(MANY)])  # fmt: skip


def write(path: Path, rows: Iterable[tuple[str, str, str]]) -> Path:
    temporary = path.with_suffix(".new")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("key", "title", "colours"))
        writer.writerows(rows)
    temporary.replace(path)
    return path


def found(shelf: Shelf, path: Path, group: str = "") -> Listing:
    listing = shelf.find(path, colours, group)
    assert listing is not None
    return listing


def keys(listing: Listing, facet: str = "") -> list[str]:
    pages = listing.page(1, facet).pages
    return [row["key"] for number in range(1, pages + 1) for [row] in listing.page(number, facet).rows]


def test_each_row_is_on_one_page_whatever_its_cells_hold(table: Path) -> None:
    listing = found(Shelf(), table)
    assert keys(listing) == [str(number) for number in range(MANY)]
    assert len(listing.page(1).rows) == PAGE
    assert listing.page(2).rows[0][0]["title"] == f'"é,\n{PAGE}"'


def test_a_filter_finds_what_it_says_and_counts_it(table: Path) -> None:
    listing = found(Shelf(), table)
    assert keys(listing, "blue") == [str(number) for number in range(0, MANY, 3)]
    assert dict(listing.facets()) == {"red": MANY, "blue": 41}
    assert listing.page(1, "green").count == 0


@pytest.mark.parametrize(("number", "shown"), [(-1, 1), (0, 1), (3, 3), (10**18, 3)])
def test_a_number_beyond_the_pages_is_the_nearest_page(table: Path, number: int, shown: int) -> None:
    assert found(Shelf(), table).page(number).number == shown


def test_rows_of_a_group_are_listed_together(tmp_path: Path) -> None:
    rows = [("a", "1", "red"), ("a", "2", "blue"), ("b", "3", "red"), ("a", "4", "red")]
    listing = found(Shelf(), write(tmp_path / "table.csv", rows), "key")
    assert [[row["title"] for row in rows] for rows in listing.page(1).rows] == [["1", "2"], ["3"], ["4"]]
    assert listing.count("red") == 3
    assert [list(row) for row in listing.rows("blue")] == [["a", "1", "red"], ["a", "2", "blue"]]


def test_a_file_is_read_once_and_again_when_it_is_another(table: Path) -> None:
    shelf = Shelf()
    before = found(shelf, table)
    assert found(shelf, table) is before
    write(table, [("x", "y", "green")])
    assert keys(found(shelf, table)) == ["x"]
    assert keys(before) == [str(number) for number in range(MANY)]  # a page that is being read stays as it was


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"", []),
        (b"key,title,colours\r\n", []),
        (b"key,title,colours\n1,\xff,red\n2\n3,a,red,more\n", ["1", "2", "3"]),
        (b'key,title,colours\n1,a,red\n2,"half', ["1", "2"]),
        (b"key,title\n1,a\n", ["1"]),
    ],
)
def test_what_a_damaged_file_has_is_listed(tmp_path: Path, content: bytes, rows: list[str]) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    assert keys(found(Shelf(), path)) == rows


def test_a_cell_without_an_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b'key\n"' + b"a" * (17 << 20))
    with pytest.raises(InputError, match="cannot be read as a table"):
        Shelf().find(path, colours)


def test_no_file_is_no_listing(tmp_path: Path) -> None:
    assert Shelf().find(tmp_path / "none.csv", colours) is None


def test_files_that_were_replaced_are_closed(table: Path) -> None:
    shelf = Shelf()
    for number in range(5):
        write(table, [(str(number), "", "")])
        found(shelf, table)
    opened = [one for one in Path("/proc/self/fd").iterdir() if os.path.realpath(one).startswith(str(table.parent))]
    assert len(opened) == 1

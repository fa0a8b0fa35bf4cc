"""CSV files as shops write them: whatever a spreadsheet makes of them, the cells are what they were."""

from __future__ import annotations

import codecs
import csv
import io
import tracemalloc
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from aisle.batch.csv_file import MAX_LINE, UTF8, WESTERN, CsvLayout, cut, examine, read
from aisle.data.raw import COLUMNS
from aisle.errors import CatalogError

Rows = list[list[str]]


def examined(content: bytes) -> CsvLayout:
    return examine(io.BytesIO(content), "in.csv", known=COLUMNS.__contains__)


def rows_of(content: bytes, rows: int = 1000) -> Rows:
    """All rows, read in pieces of so many."""
    stream, layout = io.BytesIO(content), examined(content)
    found: Rows = []
    for start, stop, count in list(cut(stream, layout, rows, "in.csv")):
        piece = read(stream, layout, start, stop, "in.csv")
        assert len(piece) == count <= rows
        found += piece
    return found


def refusal(content: bytes) -> str:
    with pytest.raises(CatalogError) as refused:
        rows_of(content)
    assert str(refused.value).startswith("in.csv: ")
    return str(refused.value)


class TestSeparators:
    @pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
    @pytest.mark.parametrize("is_quoted", [False, True])
    def test_it_is_found_whether_or_not_all_is_quoted(self, separator: str, is_quoted: bool) -> None:
        text = io.StringIO()
        table = [["index", "designation", "description"], ["0", "a,b;c\td|e", "x"]]
        writer = csv.writer(text, delimiter=separator, quoting=csv.QUOTE_ALL if is_quoted else csv.QUOTE_MINIMAL)
        writer.writerows(table)
        assert examined(text.getvalue().encode()).separator == separator
        assert rows_of(text.getvalue().encode()) == table[1:]

    def test_it_is_the_one_that_makes_most_known_columns(self) -> None:
        layout = examined(b"prix, TTC;designation;description\n9;a,b;c\n")
        assert (layout.separator, layout.columns) == (";", ("prix, TTC", "designation", "description"))

    def test_one_column_needs_none(self) -> None:
        assert rows_of(b"designation\npiscine\nlivre\n") == [["piscine"], ["livre"]]

    def test_spaces_around_a_name_are_none_of_it(self) -> None:
        assert examined(b" index ; designation\n0;a\n").columns == ("index", "designation")


class TestEncodings:
    TEXT = "designation\ncafé à 3 €, l’été\nÉlan\n"

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
    def test_letters_are_what_they_were(self, encoding: str) -> None:
        assert rows_of(self.TEXT.encode(encoding)) == [["café à 3 €", " l’été"], ["Élan"]]

    def test_latin_1_is_read_rightly(self) -> None:
        assert rows_of("designation\ncafé ÀÉÎõü\n".encode("latin-1")) == [["café ÀÉÎõü"]]

    def test_a_bom_is_no_part_of_the_first_name(self) -> None:
        layout = examined("designation\na\n".encode("utf-8-sig"))
        assert (layout.encoding, layout.columns) == (UTF8, ("designation",))

    def test_a_bom_before_a_quoted_name_is_none_either(self) -> None:
        assert rows_of('"designation"\n"a, b"\n'.encode("utf-8-sig")) == [["a, b"]]

    def test_two_letters_that_look_like_one_of_utf_8_make_no_mixture(self) -> None:
        text = "designation\nCAFÉ™ crème brûlée à emporter, façon grand-mère, réchauffée\n"
        assert examined(text.encode("cp1252")).encoding == WESTERN

    def test_a_byte_that_is_no_letter_stands_as_a_replacement(self) -> None:
        assert rows_of(b"designation\ncaf\xe9 \x81\n") == [["café \ufffd"]]

    def test_a_letter_on_the_edge_of_two_blocks_is_one(self) -> None:
        line = "é" * ((1 << 20) - 1)  # behind a name with an odd number of bytes
        assert rows_of(f"designation\n{line}\n".encode()) == [[line]]

    @pytest.mark.parametrize(("utf8", "western"), [(9, 1), (5, 5), (3, 7)])
    def test_a_mixture_is_refused_and_the_line_named(self, utf8: int, western: int) -> None:
        content = b"designation\n" + "été\n".encode() * utf8 + "été\n".encode("cp1252") * western
        says = refusal(content)
        assert f"byte 0xE9 in line {utf8 + 2}," in says
        assert "Two encodings were mixed" in says

    def test_a_file_that_says_utf_8_and_is_not_is_refused(self) -> None:
        assert "byte 0xE9 in line 2" in refusal(codecs.BOM_UTF8 + "designation\nété\n".encode("cp1252"))

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
    def test_utf_16_is_refused_with_what_to_do(self, encoding: str) -> None:
        assert "is UTF-16 or no text. Save it as CSV in UTF-8." in refusal(self.TEXT.encode(encoding))

    def test_utf_16_without_a_latin_letter_is_seen_too(self) -> None:
        assert "UTF-16" in refusal("商品名商品".encode("utf-16"))


class TestCells:
    @pytest.mark.parametrize(
        ("cell", "written"),
        [
            ('piscine "ronde"', b'"piscine ""ronde"""'),
            ("a\nb", b'"a\nb"'),
            ("a\r\nb", b'"a\r\nb"'),
            ("a\rb", b'"a\rb"'),
            ("a,b;c", b'"a,b;c"'),
            ('5" de large', b'5" de large'),
            ("a\0b", b"a\0b"),
            ("", b'""'),
            ("  ", b"  "),
        ],
    )
    def test_a_cell_is_what_was_written(self, cell: str, written: bytes) -> None:
        head = b"index,designation\n" + b"0," + b"x" * 64 + b"\n"
        assert rows_of(head + b"1," + written + b",\n2,b\n", rows=1)[1:] == [["1", cell, ""], ["2", "b"]]

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize("rows", [1, 2, 9])
    def test_lines_end_as_on_any_system(self, end: str, rows: int) -> None:
        text = end.join(["index,designation", "0,a", '1,"b', 'b"', "2,c"])
        found = [["0", "a"], ["1", f"b{end}b"], ["2", "c"]]
        assert rows_of(text.encode(), rows) == rows_of(f"{text}{end}".encode(), rows) == found

    def test_ends_of_two_systems_may_be_mixed(self) -> None:
        assert rows_of(b"index,designation\r\n0,a\n1,b\r2,c", rows=1) == [["0", "a"], ["1", "b"], ["2", "c"]]

    def test_rows_may_have_too_many_or_too_few_cells(self) -> None:
        assert rows_of(b"index,designation\n0\n1,a,b\n2,c\n") == [["0"], ["1", "a", "b"], ["2", "c"]]

    def test_a_cell_of_a_million_characters_is_one(self) -> None:
        cell = "été " * 250_000
        assert rows_of(f'index,designation\n0,"{cell}"\n1,b\n'.encode()) == [["0", cell], ["1", "b"]]

    def test_a_cell_of_a_million_lines_is_one(self) -> None:
        assert rows_of(b'index,designation\n0,"' + b"a\n" * 1_000_000 + b'"\n') == [["0", "a\n" * 1_000_000]]


class TestEmptyLines:
    def test_between_rows_they_are_none(self) -> None:
        assert rows_of(b"index,designation\n\n0,a\n\n\n1,b\n\n", rows=1) == [["0", "a"], ["1", "b"]]

    def test_before_the_header_they_are_none(self) -> None:
        assert rows_of(b"\n\r\ndesignation\na\n") == [["a"]]

    def test_in_a_table_of_one_column_each_is_a_row(self) -> None:
        assert rows_of(b"designation\na\n\n\nb\n", rows=1) == [["a"], [""], [""], ["b"]]

    def test_a_header_alone_has_no_rows(self) -> None:
        assert rows_of(b"index,designation\n") == rows_of(b"index,designation") == []

    @pytest.mark.parametrize("content", [b"", b"\n\n", codecs.BOM_UTF8])
    def test_nothing_at_all_is_refused(self, content: bytes) -> None:
        assert "is empty. Its first line names the columns." in refusal(content)


class TestBroken:
    def test_a_quote_that_is_never_closed_is_found_where_it_is_opened(self) -> None:
        content = b'designation,description\na,b\nc,"d\n' + b"e,f\n" * 1000
        assert "row that begins in line 3: a quote is opened and never closed" in refusal(content)

    def test_it_is_found_in_a_header_too(self) -> None:
        assert "row that begins in line 1: a quote is opened" in refusal(b'"designation\na\nb\n')

    def test_a_quote_amid_a_quoted_cell_is_refused_with_its_line(self) -> None:
        says = refusal(b'designation\na\n"b "c" d"\n')
        assert "row that begins in line 3" in says
        assert "a quote in it is doubled" in says

    def test_a_line_without_end_is_refused_without_its_memory(self) -> None:
        class Endless(io.RawIOBase):
            """Zeros up to 100 MB, never in memory at once."""

            at = 0

            def seek(self, offset: int, whence: int = 0) -> int:
                self.at = offset
                return offset

            def read(self, size: int = -1) -> bytes:
                start, self.at = self.at, min(self.at + size, 100_000_000)
                return (b"designation\n" + b"0" * size)[:size] if start == 0 else b"0" * (self.at - start)

        tracemalloc.start()
        try:
            stream = Endless()
            layout = examine(stream, "in.csv", known=COLUMNS.__contains__)  # type: ignore[arg-type]
            with pytest.raises(CatalogError, match="has a line of more than 16 MiB"):
                list(cut(stream, layout, 10, "in.csv"))  # type: ignore[arg-type]
            assert tracemalloc.get_traced_memory()[1] < 5 * MAX_LINE
        finally:
            tracemalloc.stop()

    def test_a_file_that_is_another_by_now_is_said_to_be_one(self) -> None:
        layout = examined("designation\nété\n".encode())
        with pytest.raises(CatalogError, match="no longer the file"):
            read(io.BytesIO("designation\nété\n".encode("cp1252")), layout, 12, 16, "in.csv")


TEXTS = st.text(st.sampled_from("ab éà,;\t|\"'\n\r\\0"), max_size=8)


@st.composite
def tables(draw: st.DrawFn) -> tuple[bytes, str, str, int]:
    """A table as `csv.writer` writes it: its bytes, its encoding, its separator, and the rows of a piece."""
    separator = draw(st.sampled_from(",;\t|"))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "cp1252"]))
    width = draw(st.integers(1, 4))
    rows: list[Sequence[str]] = draw(st.lists(st.lists(TEXTS, min_size=1, max_size=width + 1), max_size=12))
    text = io.StringIO(newline="")
    writer = csv.writer(
        text,
        delimiter=separator,
        lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r"])),
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    )
    writer.writerow(["designation", "description", "productid", "imageid"][:width])
    writer.writerows(rows)
    content = text.getvalue().encode(encoding)
    return content, encoding, separator, draw(st.integers(1, 5))


def whole(content: bytes, encoding: str, separator: str) -> Iterator[list[str]]:
    """What Python's own reader makes of all of it: the measure. An empty line is a row where a row is one cell."""
    header, *rows = csv.reader(io.StringIO(content.decode(encoding), newline=""), delimiter=separator)
    yield from (row or [""] for row in rows if row or len(header) == 1)


@pytest.mark.parametrize("start", [b"", b"index,designation\n1,a\n"])
def test_a_million_empty_lines_are_no_table(start: bytes) -> None:
    assert "empty lines in a row" in refusal(start + b"\n" * 1_000_000)


@settings(deadline=None, max_examples=300)
@given(tables())
def test_pieces_of_any_size_are_together_what_the_whole_is(table: tuple[bytes, str, str, int]) -> None:
    content, encoding, separator, rows = table
    assume(examined(content).separator == separator)  # a table of one column may be read with any
    assert rows_of(content, rows) == list(whole(content, encoding, separator))


@settings(deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.binary(max_size=200), st.text(max_size=80).map(str.encode)), st.integers(1, 3))
def test_whatever_the_bytes_are_they_are_rows_or_refused(content: bytes, rows: int) -> None:
    for start in (b"", b"designation,description\n", b'"designation";"description"\r\n'):
        try:
            found = rows_of(start + content, rows)
        except CatalogError:
            continue
        assert all(isinstance(cell, str) for row in found for cell in row)

"""Tables in pieces: read in any order, any time, by anybody, they are the rows of the table."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.batch.conftest import S3

from aisle.batch.pieces import CELLS_ERROR, CELLS_NOTE, PieceReader, Source, open_source
from aisle.batch.places import Place
from aisle.errors import CatalogError, InputError

Make = Callable[..., Place]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A parquet file with these columns, by default in row groups of 7."""

    def make(columns: Any, name: str = "in.parquet", rows: int = 7) -> Place:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, row_group_size=rows)
        return Place(str(path))

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Place]:
    def write(text: str, name: str = "in.csv") -> Place:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, newline="")
        return Place(str(path))

    return write


def source_of(place: Place, rows: int = 5, *, images: bool = False) -> Source:
    return open_source(place, rows=rows, images=images)


def read(source: Source) -> pl.DataFrame:
    reader = PieceReader(source)
    try:
        frames = [reader.read(piece) for piece in source.pieces]
    finally:
        reader.close()
    assert [len(one) for one in frames] == [piece.rows for piece in source.pieces]
    return pl.concat(frames, how="diagonal")


def refusal(place: Place, *, images: bool = False) -> str:
    with pytest.raises(CatalogError) as refused:
        read(source_of(place, images=images))
    assert str(refused.value).startswith(str(place))
    return str(refused.value)


class TestParquet:
    def test_no_piece_lies_in_two_row_groups(self, make: Make) -> None:
        source = source_of(make({"designation": [f"t{n}" for n in range(30)]}))
        assert [(one.start, one.stop) for one in source.pieces] == [
            (0, 5), (5, 7), (7, 12), (12, 14), (14, 19), (19, 21), (21, 26), (26, 28), (28, 30),
        ]  # fmt: skip
        assert read(source)["title"].to_list() == [f"t{n}" for n in range(30)]

    @pytest.mark.parametrize("group", [100, 1000, 5000])
    def test_pieces_can_be_read_in_any_order_and_twice(self, make: Make, group: int) -> None:
        titles = [f"t{n}" for n in range(3000)]
        source = source_of(make({"designation": titles}, rows=group), rows=170)
        order = [*source.pieces, *source.pieces]
        Random(1).shuffle(order)
        reader = PieceReader(source)
        for piece in order:
            assert reader.read(piece)["title"].to_list() == titles[piece.start : piece.stop]
        reader.close()

    def test_numbers_are_text_and_gaps_are_null(self, make: Make) -> None:
        columns = {
            "": [3, 4],
            "productid": [7.0, None],
            "imageid": pa.array([8, 9], pa.uint64()),
            "designation": [1, 2],
        }
        found = read(source_of(make(columns)))
        assert found.select("key", "product_id", "image_id", "title").rows() == [
            ("3", "7", "8", "1"),
            ("4", None, "9", "2"),
        ]

    def test_a_number_that_is_none_of_a_product_stays_what_it_is(self, make: Make) -> None:
        columns = {"productid": [7.5, 1e20, float("nan"), -3.0], "designation": list("abcd")}
        found = read(source_of(make(columns)))["product_id"].to_list()
        assert (found[0], found[3]) == ("7.5", "-3")
        assert float(found[1]) == 1e20

    def test_texts_of_a_dictionary_are_texts(self, make: Make) -> None:
        texts = ["a", "b", None, "a", "c", "a", "d", "e", "a"]
        table = pa.table({"designation": pa.array(texts).dictionary_encode()})
        assert read(source_of(make(table, rows=4), rows=3))["title"].to_list() == texts

    @pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
    def test_texts_of_every_kind_are_texts(self, make: Make, kind: pa.DataType) -> None:
        assert read(source_of(make({"designation": pa.array(["a", None], kind)})))["title"].to_list() == ["a", None]

    @pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
    @pytest.mark.parametrize("name", ["image", "image_bytes"])
    def test_images_are_bytes(self, make: Make, kind: pa.DataType, name: str) -> None:
        source = source_of(make({name: pa.array([b"\xff\xd8", None], kind)}))
        assert source.has_images
        assert read(source)["image"].to_list() == [b"\xff\xd8", None]

    def test_or_structures_with_bytes_as_other_libraries_write_them(self, make: Make) -> None:
        images = [{"bytes": b"\xff\xd8", "path": "a.jpg"}, None, {"bytes": None, "path": "b.jpg"}]
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        source = source_of(make({"image": pa.array(images, kind), "index": [1, 2, 3]}))
        assert read(source).select("key", "image").rows() == [("1", b"\xff\xd8"), ("2", None), ("3", None)]

    def test_other_columns_are_not_read(self, make: Make) -> None:
        table = pa.table({"designation": ["a"], "prices": pa.array([[1, 2]]), "image": ["a.jpg"]})
        assert read(source_of(make(table))).columns == ["title", CELLS_ERROR, CELLS_NOTE]

    @pytest.mark.parametrize("values", [[["a"]], [{"fr": "a"}], [b"\xff"]])
    def test_a_title_that_is_no_text_is_refused(self, make: Make, values: list[object]) -> None:
        says = refusal(make({"designation": pa.array(values)}))
        assert "has a column 'designation' of " in says
        assert "Text or a number is needed." in says

    @pytest.mark.parametrize("left", [0, 3, 400, -1])
    def test_a_file_that_is_cut_short_is_refused(self, make: Make, left: int) -> None:
        place = make({"designation": [f"t{n}" * 9 for n in range(300)]})
        place.path.write_bytes(place.path.read_bytes()[:left])
        assert "cannot be read as a table: " in refusal(place)

    def test_a_page_that_is_damaged_is_refused(self, make: Make) -> None:
        place = make({"designation": [f"titre {n} " * 9 for n in range(5000)]}, rows=5000)
        content = bytearray(place.path.read_bytes())
        content[40 : len(content) // 2] = bytes(len(content) // 2 - 40)
        place.path.write_bytes(content)
        assert "cannot be read as a table: " in refusal(place)

    def test_a_table_without_rows_has_no_pieces(self, make: Make) -> None:
        source = source_of(make({"designation": pa.array([], pa.string())}))
        assert (source.pieces, source.rows) == ((), 0)


class TestCsv:
    def test_rows_have_their_columns_and_empty_cells_are_null(self, write: Callable[[str], Place]) -> None:
        place = write('prix;designation;index;description\n3;"a\nb";0;\n4;;1;"c;d"\n')
        found = read(source_of(place, rows=1))
        assert found.select("key", "title", "description").rows() == [("0", "a\nb", None), ("1", None, "c;d")]
        assert source_of(place).keys == {"key": "index"}

    def test_a_row_with_too_many_cells_has_an_error_and_the_others_none(self, write: Callable[[str], Place]) -> None:
        found = read(source_of(write("index,designation\n0,a\n1,b,c\n2,d\n")))
        assert found[CELLS_ERROR].to_list() == [None, "the row has 3 cells, the header 2", None]

    def test_a_row_with_too_few_cells_is_taken_for_what_it_has(self, write: Callable[[str], Place]) -> None:
        found = read(source_of(write("index,designation,description\n0,a,\n1,b\n")))
        assert found["title"].to_list() == ["a", "b"]
        [none, note] = found[CELLS_NOTE].to_list()
        assert none is None
        assert note == "the row has 2 cells, the header 3: the others were taken for empty"

    def test_two_columns_for_one_are_refused(self, write: Callable[[str], Place]) -> None:
        assert "has two columns for 'product_id'" in refusal(write("productid,product_id,designation\n1,2,a\n"))

    def test_a_table_without_texts_is_refused_with_its_columns(
        self, write: Callable[[str], Place], make: Make
    ) -> None:
        for place in (write("index,titre\n0,a\n"), make({"index": [0], "titre": ["a"]})):
            says = refusal(place)
            assert "has neither a column 'designation' nor 'description'. Its columns are 'index', 'titre'." in says

    def test_images_elsewhere_need_both_numbers(self, write: Callable[[str], Place]) -> None:
        says = refusal(write("productid,designation\n1,a\n"), images=True)
        assert "has no column 'imageid'. Its columns are 'productid', 'designation'." in says


class TestFolders:
    def test_files_are_read_by_name_and_hidden_ones_are_not(
        self, write: Callable[[str, str], Place], make: Make, tmp_path: Path
    ) -> None:
        write("index,designation\n2,c\n", "table/b.csv")
        make({"designation": ["a", "b"], "index": [0, 1]}, "table/a.parquet")
        make({"designation": ["d"], "index": [3]}, "table/type=10/part-0.parquet")
        for name in ("_temporary/0.csv", ".b.csv", "_x.csv", "note.txt"):
            write("what,ever\n", f"table/{name}")
        found = read(source_of(Place(str(tmp_path / "table"))))
        assert found.select("key", "title").rows() == [("0", "a"), ("1", "b"), ("2", "c"), ("3", "d")]

    def test_a_column_that_one_file_lacks_is_empty_there(
        self, write: Callable[[str, str], Place], tmp_path: Path
    ) -> None:
        write("designation\na\n", "table/a.csv")
        write("productid;designation;description\n7;b;c\n", "table/b.csv")
        source = source_of(Place(str(tmp_path / "table")))
        assert source.keys == {"product_id": "productid"}
        found = read(source)
        assert found.select("product_id", "title", "description").rows() == [(None, "a", None), ("7", "b", "c")]

    def test_a_file_that_is_no_such_table_is_named(self, write: Callable[[str, str], Place], tmp_path: Path) -> None:
        write("designation\na\n", "table/a.csv")
        bad = write("price\n3\n", "table/b.csv")
        with pytest.raises(CatalogError) as refused:
            source_of(Place(str(tmp_path / "table")))
        assert str(refused.value).startswith(f"{bad}: has neither")

    def test_a_folder_without_a_table_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "table").mkdir()
        (tmp_path / "table" / "_a.csv").write_text("designation\n")
        assert "holds no table" in refusal(Place(str(tmp_path / "table")))

    def test_nothing_is_refused(self, tmp_path: Path) -> None:
        assert "there is no such file" in refusal(Place(str(tmp_path / "table.csv")))


class TestSource:
    def test_it_travels_to_other_processes(self, write: Callable[[str], Place], make: Make) -> None:
        for place in (write("designation;index\né;0\n"), make({"designation": ["a"]})):
            source = source_of(place)
            assert read(pickle.loads(pickle.dumps(source))).equals(read(source))  # noqa: S301  our own

    @pytest.mark.parametrize("rows", [1, 2, 3, 100])
    def test_pieces_of_any_size_are_the_same_table(
        self, write: Callable[[str], Place], make: Make, rows: int
    ) -> None:
        titles = ["a", "b\nc", 'd"', "é", "f;g", "", "h"]
        cells = "".join('"{}"\r\n'.format(title.replace('"', '""')) for title in titles)
        for place in (
            write(f"designation\r\n{cells}"),
            make({"designation": [one or None for one in titles]}, rows=4),
        ):
            source = source_of(place, rows)
            assert max(piece.rows for piece in source.pieces) <= rows
            assert [piece.number for piece in source.pieces] == list(range(len(source.pieces)))
            assert read(source)["title"].to_list() == [one or None for one in titles]

    def test_its_fingerprint_tells_a_change_of_a_file_or_of_the_pieces(self, write: Callable[[str], Place]) -> None:
        text = "designation\na\nb\nc\n"
        seen = [source_of(write(text)).fingerprint(), source_of(write(text + "d\n")).fingerprint()]
        seen.append(source_of(write(text + "d\n"), rows=2).fingerprint())
        assert all(one not in seen[:number] for number, one in enumerate(seen))

    def test_a_file_that_changes_after_it_was_cut_is_not_read(self, write: Callable[[str], Place]) -> None:
        source = source_of(write("designation\na\nb\n"))
        write("designation\nabc\nb\n")
        with pytest.raises(CatalogError, match="has changed"):
            read(source)


class TestS3:
    def test_tables_are_the_same_in_s3(self, s3: S3, write: Callable[[str], Place], make: Make) -> None:
        columns = {"designation": [f"t{n}" for n in range(40)], "image": [bytes([n]) * 9 for n in range(40)]}
        for place in (write("designation;index\né;0\na;1\nb;2\n"), make(columns)):
            there = s3.put(f"in/{place.name}", place.read_bytes())
            assert read(source_of(there, 2)).equals(read(source_of(place, 2)))

    def test_so_is_a_folder(self, s3: S3) -> None:
        s3.put("table/b.csv", b"designation\nb\n")
        s3.put("table/a.csv", b"designation\na\n")
        s3.put("table/_temporary/c.csv", b"what\never\n")
        assert read(source_of(s3.place("table")))["title"].to_list() == ["a", "b"]

    def test_what_is_not_there_is_refused(self, s3: S3) -> None:
        for place in (s3.place("in.csv"), Place("s3://other/in.csv", s3.endpoint)):
            with pytest.raises(InputError, match="there is no such file"):
                source_of(place)

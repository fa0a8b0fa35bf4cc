"""Bulk prediction on one machine: the same result with any cores, pieces and places, and after any interruption."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from tests.batch.conftest import S3
from tests.end_to_end.conftest import contents, image_path, picture, read_csv, write_csv, write_shop

from aisle.batch.bulk import BulkOptions, local_engine, predict_table
from aisle.batch.local import Engine
from aisle.batch.parts import BulkResult, Parts
from aisle.batch.pieces import Piece
from aisle.batch.places import Place
from aisle.batch.predicting import Task
from aisle.data.raw import TRAIN_FILE
from aisle.errors import AisleError, CheckFailed, InputError, UsageError
from aisle.model.bundle import Bundle

SMALL = BulkOptions(rows=8)
ALONE = local_engine(1)
WORDS = ("livre roman ancien", "piscine gonflable bleue", "jeu console", "figurine", "lampe de chevet")


class Stop(Exception):
    pass


def stopping(after: int, engine: Engine = ALONE) -> Engine:
    """An engine that fails when so many pieces are done."""

    def stopped(task: Task, pieces: Sequence[Piece], parts: Parts) -> Iterator[Piece]:
        for number, piece in enumerate(engine(task, pieces, parts), 1):
            yield piece
            if number == after:
                raise Stop

    return stopped


@pytest.fixture
def table(tmp_path: Path) -> Place:
    """40 products: five pieces of eight."""
    titles = [[n, f"{WORDS[n % 5]} {n}", "rouge" if n % 3 else ""] for n in range(40)]
    write_csv(tmp_path / "in.csv", [["index", "designation", "description"], *titles])
    return Place(str(tmp_path / "in.csv"))


@pytest.fixture
def out(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "out.csv"))


@pytest.fixture
def whole(bundle: Bundle, table: Place, tmp_path: Path) -> bytes:
    """What a run without interruption gives."""
    place = Place(str(tmp_path / "whole" / "out.csv"))
    predict_table(bundle, table, place, ALONE, SMALL)
    return place.read_bytes()


def run(bundle: Bundle, table: Place, out: Place, engine: Engine = ALONE, options: BulkOptions = SMALL) -> BulkResult:
    return predict_table(bundle, table, out, engine, options)


def interrupted(bundle: Bundle, table: Place, out: Place, after: int = 2, options: BulkOptions = SMALL) -> None:
    with pytest.raises(Stop):
        predict_table(bundle, table, out, stopping(after), options)


def parts_of(out: Place) -> dict[str, tuple[int, int]]:
    """The parts by name, with what a rewritten file would not keep."""
    folder = out.path.parent / f".{out.name}.parts"
    found = {path.name: path.stat() for path in sorted(folder.glob("part-*"))}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


class TestProcesses:
    def test_two_processes_say_bit_for_bit_what_one_says(
        self, bundle: Bundle, table: Place, out: Place, whole: bytes
    ) -> None:
        run(bundle, table, out, local_engine(2))
        assert out.read_bytes() == whole

    @pytest.mark.parametrize("rows", [1, 7, 39, 40, 1000])
    def test_pieces_of_any_size_give_the_same(
        self, bundle: Bundle, table: Place, out: Place, whole: bytes, rows: int
    ) -> None:
        run(bundle, table, out, options=BulkOptions(rows=rows))
        assert out.read_bytes() == whole

    def test_what_goes_wrong_in_a_process_is_what_is_told(
        self, bundle: Bundle, table: Place, out: Place, tmp_path: Path
    ) -> None:
        def spoiled(task: Task, pieces: Sequence[Piece], parts: Parts) -> Iterator[Piece]:
            return local_engine(2)(replace(task, version="another"), pieces, parts)

        with pytest.raises(InputError, match="by now, not another"):
            run(bundle, table, out, spoiled)
        assert contents(tmp_path).keys() == {"in.csv"}

    @pytest.mark.slow
    def test_memory_does_not_grow_with_the_rows(self, bundle: Bundle, tmp_path: Path) -> None:
        peaks = []
        for rows in (4_000, 40_000):
            titles = ([n, f"{WORDS[n % 5]} {n % 997} {n % 31}"] for n in range(rows))
            write_csv(tmp_path / "in.csv", [["index", "designation"], *titles])
            # A process of its own: the largest that one ever was is not told of less.
            code = (
                "import resource, sys; from pathlib import Path; from aisle.batch.bulk import *\n"
                "bundle = Bundle.load(Path(sys.argv[1]))\n"
                "predict_table(bundle, Place('in.csv'), Place('out.csv'), local_engine(1), BulkOptions(rows=500))\n"
                "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
            )
            ran = subprocess.run(
                [sys.executable, "-c", code, bundle.path], cwd=tmp_path, check=True, capture_output=True, text=True
            )
            peaks.append(int(ran.stdout.splitlines()[-1]))
            assert len(read_csv(tmp_path / "out.csv")) == rows
        assert peaks[1] < 1.1 * peaks[0]


class TestResume:
    @pytest.mark.parametrize("cores", [1, 2])
    def test_what_is_done_is_not_done_again_and_the_result_is_the_same(
        self, bundle: Bundle, table: Place, out: Place, whole: bytes, cores: int
    ) -> None:
        interrupted(bundle, table, out)
        before = parts_of(out)
        done: list[str] = []

        def watching(task: Task, pieces: Sequence[Piece], parts: Parts) -> Iterator[Piece]:
            yield from local_engine(cores)(task, pieces, parts)
            assert before.items() <= parts_of(out).items()
            done.extend(f"part-{piece.number:06}.parquet" for piece in pieces)

        run(bundle, table, out, watching, replace(SMALL, resume=True))
        assert sorted([*before, *done]) == [f"part-{n:06}.parquet" for n in range(5)]
        assert len(before) == 2
        assert out.read_bytes() == whole
        assert parts_of(out) == {}

    def test_it_may_be_interrupted_again(self, bundle: Bundle, table: Place, out: Place, whole: bytes) -> None:
        for _ in range(4):
            interrupted(bundle, table, out, 1, replace(SMALL, resume=True))
        assert len(parts_of(out)) == 4
        run(bundle, table, out, options=replace(SMALL, resume=True))
        assert out.read_bytes() == whole

    def test_with_nothing_left_to_do_it_is_put_together(
        self, bundle: Bundle, table: Place, out: Place, whole: bytes
    ) -> None:
        interrupted(bundle, table, out, 5)
        run(bundle, table, out, stopping(1), replace(SMALL, resume=True))
        assert out.read_bytes() == whole

    def test_where_nothing_was_begun_it_begins(self, bundle: Bundle, table: Place, out: Place, whole: bytes) -> None:
        run(bundle, table, out, options=replace(SMALL, resume=True))
        assert out.read_bytes() == whole

    def test_an_interrupted_run_leaves_an_earlier_result(self, bundle: Bundle, table: Place, out: Place) -> None:
        out.write_bytes(b"earlier")
        interrupted(bundle, table, out)
        assert out.read_bytes() == b"earlier"

    @pytest.mark.parametrize("change", ["model", "table", "fields", "rows"])
    def test_of_another_run_it_is_refused_and_nothing_is_lost(
        self, bundle: Bundle, table: Place, out: Place, change: str, whole: bytes
    ) -> None:
        interrupted(bundle, table, out)
        before, text = parts_of(out), table.read_bytes()
        times = table.path.stat()
        model, options = bundle, replace(SMALL, resume=True)
        if change == "model":
            model = replace(bundle, version="0123456789ab")
        elif change == "table":
            table.path.write_bytes(text + b"40,livre,\n")
        elif change == "fields":
            options = replace(options, fields=("title",))
        else:
            options = replace(options, rows=9)
        with pytest.raises(UsageError, match="of another run") as refused:
            run(model, table, out, options=options)
        assert "Without --resume it is begun anew." in str(refused.value)
        assert parts_of(out) == before
        table.path.write_bytes(text)
        os.utime(table.path, ns=(times.st_atime_ns, times.st_mtime_ns))
        run(bundle, table, out, options=replace(SMALL, resume=True))
        assert out.read_bytes() == whole

    def test_without_resume_it_is_begun_anew(self, bundle: Bundle, table: Place, out: Place, whole: bytes) -> None:
        interrupted(bundle, table, out, 3, replace(SMALL, fields=("description",)))
        run(bundle, table, out)
        assert out.read_bytes() == whole

    def test_a_file_that_a_killed_process_left_among_the_parts_does_no_harm(
        self, bundle: Bundle, table: Place, tmp_path: Path
    ) -> None:
        out, options = Place(str(tmp_path / "out")), replace(SMALL, partitioned=True, resume=True)
        interrupted(bundle, table, out, 2, options)
        (tmp_path / ".out.parts" / ".tmp-x.parquet").write_bytes(b"half")
        run(bundle, table, out, options=options)
        assert sorted(path.name for path in out.path.iterdir()) == [f"part-{n:06}.parquet" for n in range(5)]


class TestTwoAtOnce:
    def test_the_second_is_refused_and_the_first_goes_on(
        self, bundle: Bundle, table: Place, out: Place, whole: bytes
    ) -> None:
        refused: list[AisleError] = []

        def meanwhile(task: Task, pieces: Sequence[Piece], parts: Parts) -> Iterator[Piece]:
            for piece in ALONE(task, pieces, parts):
                for resume in (False, True):
                    with pytest.raises(CheckFailed, match="another run is writing this output") as no:
                        run(bundle, table, out, options=replace(SMALL, resume=resume))
                    refused.append(no.value)
                yield piece

        run(bundle, table, out, meanwhile)
        assert len(refused) == 10
        assert out.read_bytes() == whole

    def test_what_a_dead_process_held_is_free(self, bundle: Bundle, table: Place, out: Place, whole: bytes) -> None:
        folder = out.path.parent / f".{out.name}.parts"
        folder.mkdir()
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.close(handle)
        run(bundle, table, out)
        assert out.read_bytes() == whole


class TestPartitioned:
    OPTIONS = replace(SMALL, partitioned=True)

    def test_the_folder_is_the_result(self, bundle: Bundle, table: Place, tmp_path: Path) -> None:
        run(bundle, table, Place(str(tmp_path / "out.parquet")))
        result = run(bundle, table, Place(str(tmp_path / "out")), options=self.OPTIONS)
        assert (result.rows, result.output) == (40, str(tmp_path / "out"))
        found = pl.read_parquet(tmp_path / "out")
        assert found.equals(pl.read_parquet(tmp_path / "out.parquet"))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out", "out.parquet"]

    def test_an_earlier_result_is_replaced_whole(self, bundle: Bundle, table: Place, tmp_path: Path) -> None:
        out = Place(str(tmp_path / "out"))
        run(bundle, table, out, options=replace(self.OPTIONS, rows=1))
        run(bundle, table, out, options=self.OPTIONS)
        assert len(list(out.path.iterdir())) == 5
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out"]

    @pytest.mark.parametrize("name", ["notes.txt", ".git", "_data", "other/part-000000.txt", "x.parquet"])
    def test_a_folder_with_something_else_is_refused(
        self, bundle: Bundle, table: Place, tmp_path: Path, name: str
    ) -> None:
        (tmp_path / "out" / name).parent.mkdir(parents=True)
        (tmp_path / "out" / name).write_bytes(b"precious")
        with pytest.raises(UsageError, match="holds something else"):
            run(bundle, table, Place(str(tmp_path / "out")), options=self.OPTIONS)
        assert (tmp_path / "out" / name).read_bytes() == b"precious"

    def test_so_is_a_file(self, bundle: Bundle, table: Place, tmp_path: Path) -> None:
        (tmp_path / "out").write_bytes(b"precious")
        with pytest.raises(UsageError, match="holds something else"):
            run(bundle, table, Place(str(tmp_path / "out")), options=self.OPTIONS)
        assert (tmp_path / "out").read_bytes() == b"precious"

    def test_a_table_without_rows_is_a_folder_with_its_columns(self, bundle: Bundle, tmp_path: Path) -> None:
        (tmp_path / "in.csv").write_text("index,designation\n")
        run(bundle, Place(str(tmp_path / "in.csv")), Place(str(tmp_path / "out")), options=self.OPTIONS)
        found = pl.read_parquet(tmp_path / "out")
        assert (found.columns[:2], len(found)) == (["index", "predicted"], 0)

    def test_it_goes_on_where_it_was_interrupted(self, bundle: Bundle, table: Place, tmp_path: Path) -> None:
        run(bundle, table, Place(str(tmp_path / "whole")), options=self.OPTIONS)
        interrupted(bundle, table, Place(str(tmp_path / "out")), 3, self.OPTIONS)
        run(bundle, table, Place(str(tmp_path / "out")), options=replace(self.OPTIONS, resume=True))
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")

    def test_what_it_wrote_can_be_read_as_a_table(self, bundle: Bundle, table: Place, tmp_path: Path) -> None:
        columns = pl.read_csv(table.path, infer_schema=False)
        (tmp_path / "table").mkdir()
        for number in range(4):
            columns.slice(number * 10, 10).write_parquet(tmp_path / "table" / f"part-{number}.parquet")
        run(bundle, table, Place(str(tmp_path / "one.csv")))
        run(bundle, Place(str(tmp_path / "table")), Place(str(tmp_path / "two.csv")))
        assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


class TestRows:
    def test_a_row_with_too_many_cells_is_not_believed_and_the_others_are(
        self, bundle: Bundle, tmp_path: Path, out: Place
    ) -> None:
        (tmp_path / "in.csv").write_text("index,designation\n0,livre\n1,livre,rouge\n2\n3,piscine\n")
        result = run(bundle, Place(str(tmp_path / "in.csv")), out)
        assert (result.rows, result.predicted, result.errors) == (4, 2, 2)
        rows = read_csv(out.path)
        assert [row["index"] for row in rows] == ["0", "1", "2", "3"]
        assert rows[1]["error"] == "the row has 3 cells, the header 2"
        assert {rows[1][name] for name in ("predicted", "label", "confidence", "decision", "top_k")} == {""}
        assert [bool(row["predicted"]) for row in rows] == [True, False, False, True]

    def test_a_row_with_too_few_cells_is_predicted_and_says_so(
        self, bundle: Bundle, tmp_path: Path, out: Place
    ) -> None:
        (tmp_path / "in.csv").write_text("designation,description\nlivre\nlivre,\n")
        run(bundle, Place(str(tmp_path / "in.csv")), out)
        one, other = read_csv(out.path)
        assert one["error"] == "the row has 1 cells, the header 2: the others were taken for empty"
        assert {**one, "error": ""} == other

    def test_the_input_is_never_the_output(self, bundle: Bundle, table: Place, tmp_path: Path) -> None:
        (tmp_path / "link.csv").symlink_to(table.path)
        for output in (table, Place(str(tmp_path / "link.csv")), Place(str(tmp_path / "." / "x" / ".." / "in.csv"))):
            (tmp_path / "x").mkdir(exist_ok=True)
            with pytest.raises(UsageError, match="would replace the input"):
                run(bundle, table, output)

    def test_nor_is_a_file_of_an_input_that_is_a_folder(self, bundle: Bundle, table: Place, tmp_path: Path) -> None:
        shutil.copytree(tmp_path, tmp_path / "table", ignore=lambda *_: ["table"])
        with pytest.raises(UsageError, match="would replace the input"):
            run(bundle, Place(str(tmp_path / "table")), Place(str(tmp_path / "table" / "in.csv")))


class TestS3:
    def test_csv_and_parquet_go_in_and_out(
        self, bundle: Bundle, s3: S3, table: Place, tmp_path: Path, whole: bytes
    ) -> None:
        columns = pl.read_csv(table.path, infer_schema=False)
        columns.write_parquet(tmp_path / "in.parquet")
        run(bundle, table, Place(str(tmp_path / "out.parquet")))
        expected = {"out.csv": whole, "out.parquet": (tmp_path / "out.parquet").read_bytes()}
        for name in ("in.csv", "in.parquet"):
            there = s3.put(name, (tmp_path / name).read_bytes())
            for output, content in expected.items():
                run(bundle, there, s3.place(f"results/{output}"), local_engine(2 if name == output else 1))
                assert s3.get(f"results/{output}") == content
        assert sorted(key for key in s3.names() if key.endswith(("csv", "parquet"))) == [
            "in.csv", "in.parquet", "results/out.csv", "results/out.parquet",
        ]  # fmt: skip

    def test_a_run_goes_on_where_it_was_interrupted(self, bundle: Bundle, s3: S3, table: Place, whole: bytes) -> None:
        there, out = s3.put("in.csv", table.read_bytes()), s3.place("results/out.csv")
        interrupted(bundle, there, out)
        before = {key: s3.client.head_object(Bucket="shop", Key=key)["LastModified"] for key in s3.names("results/")}
        assert sum("/part-" in key for key in before) == 2
        done: list[int] = []

        def watching(task: Task, pieces: Sequence[Piece], parts: Parts) -> Iterator[Piece]:
            done.extend(piece.number for piece in pieces)
            return ALONE(task, pieces, parts)

        run(bundle, there, out, watching, replace(SMALL, resume=True))
        assert done == [2, 3, 4]
        assert s3.get("results/out.csv") == whole

    def test_parts_may_be_the_result(self, bundle: Bundle, s3: S3, table: Place, tmp_path: Path) -> None:
        options = replace(SMALL, partitioned=True)
        for rows in (1, 8):  # the second replaces the first
            run(bundle, table, s3.place("results/out"), options=replace(options, rows=rows))
        run(bundle, table, Place(str(tmp_path / "out")), options=options)
        keys = [key for key in s3.names("results/out/") if not key.endswith("/")]
        assert keys == [f"results/out/part-{n:06}.parquet" for n in range(5)]
        found = pl.concat(pl.read_parquet(io.BytesIO(s3.get(key))) for key in keys)
        assert found.equals(pl.read_parquet(tmp_path / "out"))

    def test_other_files_below_the_prefix_are_not_lost(self, bundle: Bundle, s3: S3, table: Place) -> None:
        s3.put("results/out/precious.csv", b"x")
        with pytest.raises(UsageError, match="holds something else"):
            run(bundle, table, s3.place("results/out"), options=replace(SMALL, partitioned=True))
        assert s3.names() == ["results/out/precious.csv"]

    def test_images_in_a_zip_or_below_a_prefix_are_those_of_the_folder(
        self, bundle: Bundle, s3: S3, tmp_path: Path
    ) -> None:
        shop = write_shop(tmp_path / "shop", products=12, images=9)
        table = Place(str(shop / TRAIN_FILE))
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for key in range(9):
                content = image_path(shop, key).read_bytes()
                archive.writestr(f"images/{image_path(shop, key).name}", content)
                s3.put(f"images/{image_path(shop, key).name}", content)
        s3.put("images.zip", packed.getvalue())
        places = [Place(str(shop / "image_train")), s3.place("images.zip"), s3.place("images")]
        results = []
        for number, images in enumerate(places):
            out = Place(str(tmp_path / f"out{number}.csv"))
            assert run(bundle, table, out, options=BulkOptions(images=images, rows=4)).errors == 3
            results.append(out.read_bytes())
        assert results[0] == results[1] == results[2]


class TestImages:
    @pytest.fixture
    def shop(self, tmp_path: Path) -> Path:
        return write_shop(tmp_path / "shop", products=12, images=12)

    @pytest.mark.parametrize("as_struct", [False, True])
    def test_a_column_of_bytes_gives_what_the_folder_gives(
        self, bundle: Bundle, shop: Path, tmp_path: Path, as_struct: bool
    ) -> None:
        table = pl.read_csv(shop / TRAIN_FILE, infer_schema=False)
        images = [image_path(shop, key).read_bytes() for key in range(12)]
        column = [{"bytes": one, "path": "x.jpg"} for one in images] if as_struct else images
        table.with_columns(image=pl.Series(column)).write_parquet(tmp_path / "in.parquet")
        run(bundle, Place(str(shop / TRAIN_FILE)), Place(str(tmp_path / "a.csv")),
            options=BulkOptions(images=Place(str(shop)), rows=4))  # fmt: skip
        run(bundle, Place(str(tmp_path / "in.parquet")), Place(str(tmp_path / "b.csv")), options=BulkOptions(rows=4))
        run(bundle, Place(str(shop / TRAIN_FILE)), Place(str(tmp_path / "c.csv")))
        assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
        assert (tmp_path / "a.csv").read_bytes() != (tmp_path / "c.csv").read_bytes()

    def test_a_bad_image_in_a_column_leaves_the_others(self, bundle: Bundle, tmp_path: Path, out: Place) -> None:
        images = [picture(1), b"text", None, b"", picture(2)[:300]]
        table = pl.DataFrame({"designation": list(WORDS), "image": images})
        table.write_parquet(tmp_path / "in.parquet")
        result = run(bundle, Place(str(tmp_path / "in.parquet")), out)
        assert (result.rows, result.predicted, result.errors) == (5, 5, 2)
        assert [bool(row["error"]) for row in read_csv(out.path)] == [False, True, False, False, True]

"""`aisle predict`: one row out for each row in, whatever is wrong with some of them."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from tests.end_to_end.conftest import Ran, contents, leftovers, read_csv, write_csv

from aisle.catalog import Decision, Prediction, Product
from aisle.data.images import open_given_images
from aisle.data.raw import IMAGES_ZIP, TEST_FILE, image_stem
from aisle.files import read_json, sha256_file, sha256_json, write_json
from aisle.model.bundle import MANIFEST_FILE, MODEL_FILE
from aisle.model.predictor import Predictor
from aisle.registry.bundles import BundleStore

Run = Callable[..., Ran]

HEADER = ["", "designation", "description", "productid", "imageid"]
PREDICTED = ["predicted", "label", "confidence", "decision", "top_k", "model_version", "error"]
KEYS = ["", "productid", "imageid"]


@pytest.fixture(autouse=True)
def _champion(store: BundleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELS_PATH", str(store.root))


@pytest.fixture
def products(sample: Path) -> list[dict[str, str]]:
    """Products that no model has seen, with an image each."""
    return read_csv(sample / TEST_FILE)


@pytest.fixture
def table(here: Path, products: list[dict[str, str]]) -> Path:
    write_csv(here / "in.csv", [HEADER, *(list(row.values()) for row in products)])
    return here / "in.csv"


def read(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)


def promising(bundle: Path, copy: Path, threshold: float) -> None:
    """A copy of a bundle that keeps its promise from a confidence of `threshold` on."""
    shutil.copytree(bundle, copy)
    model, manifest = read_json(copy / MODEL_FILE), read_json(copy / MANIFEST_FILE)
    model["decision"]["thresholds"][model["decision"]["promise"]] = threshold
    write_json(copy / MODEL_FILE, model)
    manifest["files"][MODEL_FILE] = sha256_file(copy / MODEL_FILE)
    write_json(copy / MANIFEST_FILE, {**manifest, "version": sha256_json(manifest["files"])[:12]})


class TestRows:
    @pytest.mark.parametrize("output", ["out.csv", "out.parquet"])
    @pytest.mark.parametrize("source", ["csv", "parquet"])
    def test_each_row_in_is_one_row_out_in_order(
        self, run: Run, here: Path, table: Path, source: str, output: str, sample: Path, store: BundleStore
    ) -> None:
        if source == "parquet":
            read(table).write_parquet(table.with_suffix(".parquet"))
            table = table.with_suffix(".parquet")
        ran = run("predict", table, "--output", output, "--images", sample)
        assert ran.code == 0
        out = read(here / output)
        assert out.columns == [*KEYS, *PREDICTED]
        assert out.select(KEYS).rows() == read(table).select(KEYS).rows()
        assert set(out["model_version"]) == {store.serving().champion}
        assert leftovers(here) == []

    def test_csv_and_parquet_say_the_same(self, run: Run, here: Path, table: Path) -> None:
        for name in ("out.csv", "out.parquet"):
            run("predict", table, "--output", name)
        as_csv = read(here / "out.csv").cast({"confidence": pl.Float64})
        assert as_csv.rows() == read(here / "out.parquet").rows()

    def test_a_row_says_what_the_predictor_says_of_the_product(
        self, run: Run, here: Path, products: list[dict[str, str]], table: Path, sample: Path, predictor: Predictor
    ) -> None:
        run("predict", table, "--output", "out.parquet", "--images", sample)
        images = open_given_images(sample)
        batch = [
            Product(row["designation"], row["description"], images.read(image_stem(row["productid"], row["imageid"])))
            for row in products
        ]
        assert len(batch) <= 64  # one batch on both ways: then it is the same bit for bit
        for row, outcome in zip(read(here / "out.parquet").to_dicts(), predictor.predict(batch), strict=True):
            assert isinstance(outcome, Prediction)
            assert (row["predicted"], row["label"]) == (outcome.type.code, outcome.type.label)
            assert (row["confidence"], row["decision"]) == (outcome.confidence, outcome.decision)
            assert json.loads(row["top_k"]) == [
                {"prediction": one.type.code, "label": one.type.label, "confidence": one.confidence}
                for one in outcome.candidates
            ]

    def test_top_k_begins_with_the_prediction_and_falls(self, run: Run, here: Path, table: Path) -> None:
        run("predict", table, "--output", "out.parquet")
        for row in read(here / "out.parquet").to_dicts():
            top = json.loads(row["top_k"])
            assert (top[0]["prediction"], top[0]["confidence"]) == (row["predicted"], row["confidence"])
            falling = [one["confidence"] for one in top]
            assert falling == sorted(falling, reverse=True)
            assert len(top) == 5
            assert falling[-1] > 0
            assert sum(falling) <= 1 + 1e-9

    def test_the_decision_is_accept_from_the_promised_confidence_on(
        self, run: Run, here: Path, table: Path, store: BundleStore
    ) -> None:
        run("predict", table, "--output", "out.parquet")
        threshold = sorted(read(here / "out.parquet")["confidence"])[20]
        promising(store.find("champion"), here / "bundle", threshold)
        run("predict", table, "--output", "out.parquet", "--model", "bundle")
        out = read(here / "out.parquet")
        assert (out["decision"] == Decision.ACCEPT.value).to_list() == (out["confidence"] >= threshold).to_list()
        assert (out["decision"] == Decision.REVIEW.value).sum() == 20

    def test_the_key_columns_keep_the_names_of_the_input(self, run: Run, here: Path) -> None:
        write_csv(here / "in.csv", [["product_id", "index", "designation", "price"], [7, 3, "piscine", 9]])
        run("predict", "in.csv", "--output", "out.csv")
        assert list(read_csv(here / "out.csv")[0]) == ["index", "product_id", *PREDICTED]

    def test_a_table_of_titles_alone_will_do(self, run: Run, here: Path) -> None:
        write_csv(here / "in.csv", [["designation"], ["piscine gonflable"], ["livre ancien"]])
        assert run("predict", "in.csv", "--output", "out.csv").code == 0
        assert [list(row) for row in read_csv(here / "out.csv")] == [PREDICTED, PREDICTED]

    def test_a_title_of_100_kb_is_predicted(self, run: Run, here: Path) -> None:
        write_csv(here / "in.csv", [["designation"], ["piscine gonflable " * 6000]])
        run("predict", "in.csv", "--output", "out.csv")
        [row] = read_csv(here / "out.csv")
        assert (row["predicted"], row["error"]) == ("2583", "")

    def test_quotes_commas_and_line_breaks_in_cells_move_no_row(self, run: Run, here: Path) -> None:
        titles = ['piscine "ronde", bleue\nsolde', "livre\r\nancien", '""', "piscine"]
        write_csv(here / "in.csv", [["index", "designation"], *enumerate(titles)])
        run("predict", "in.csv", "--output", "out.csv")
        assert [row["index"] for row in read_csv(here / "out.csv")] == ["0", "1", "2", "3"]

    @pytest.mark.parametrize("output", ["out.csv", "out.parquet"])
    def test_a_table_without_rows_gives_one_without_rows(self, run: Run, here: Path, output: str) -> None:
        write_csv(here / "in.csv", [HEADER])
        assert run("predict", "in.csv", "--output", output).code == 0
        out = read(here / output)
        assert (out.columns, len(out)) == ([*KEYS, *PREDICTED], 0)


class TestBadRows:
    """A row that cannot be predicted says why, and the others do not suffer."""

    @pytest.fixture
    def out(self, run: Run, here: Path, products: list[dict[str, str]], sample: Path) -> list[dict[str, str]]:
        """Rows: good, image missing, image truncated, nothing at all, image that is none, image alone, good."""
        first = products[:7]
        (here / "images").mkdir()
        with zipfile.ZipFile(sample / IMAGES_ZIP) as packed:
            entries = {Path(name).stem: name for name in packed.namelist()}
            for number, row in enumerate(first):
                stem = image_stem(row["productid"], row["imageid"])
                content = packed.read(entries[stem])
                content = {2: content[: len(content) // 2], 4: b"text"}.get(number, content)
                if number not in (1, 3):
                    (here / "images" / f"{stem}.jpg").write_bytes(content)
        for number in (3, 5):
            first[number] |= {"designation": "", "description": ""}
        write_csv(here / "in.csv", [HEADER, *(list(row.values()) for row in first)])
        self.ran = run("predict", "in.csv", "--output", "out.csv", "--images", "images", "--json")
        return read_csv(here / "out.csv")

    def test_every_row_has_its_place(self, out: list[dict[str, str]], products: list[dict[str, str]]) -> None:
        assert [row[""] for row in out] == [row[""] for row in products[:7]]

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            (1, "there is no such image"),
            (2, "the image is damaged"),
            (4, "the file is not a JPEG, PNG or WebP image"),
        ],
    )
    def test_a_bad_image_leaves_the_prediction_to_the_texts_and_says_so(
        self, out: list[dict[str, str]], row: int, reason: str
    ) -> None:
        assert out[row]["error"].startswith("predicted without the image: ")
        assert reason in out[row]["error"]
        assert out[row]["predicted"]

    def test_it_is_then_what_the_texts_alone_give(self, run: Run, here: Path, out: list[dict[str, str]]) -> None:
        run("predict", "in.csv", "--output", "texts.csv")
        texts = read_csv(here / "texts.csv")
        for row in (1, 2, 4):
            assert texts[row]["predicted"] == out[row]["predicted"]
            assert float(texts[row]["confidence"]) == pytest.approx(float(out[row]["confidence"]), abs=1e-6)

    def test_a_row_with_nothing_to_look_at_has_an_error_and_no_prediction(self, out: list[dict[str, str]]) -> None:
        assert "there is no such image" in out[3]["error"]
        assert {out[3][name] for name in ("predicted", "label", "confidence", "decision", "top_k")} == {""}
        assert out[3]["model_version"]

    def test_good_rows_have_no_error(self, out: list[dict[str, str]]) -> None:
        assert [bool(row["error"]) for row in out] == [False, True, True, True, True, False, False]
        assert all(out[row]["predicted"] for row in (0, 5, 6))

    def test_the_summary_counts_them(self, out: list[dict[str, str]]) -> None:
        summary = json.loads(self.ran.out)
        assert self.ran.code == 0
        assert {name: summary[name] for name in ("output", "rows", "predicted", "errors")} == {
            "output": "out.csv",
            "rows": 7,
            "predicted": 6,
            "errors": 4,
        }
        assert summary["accepted"] == sum(row["decision"] == "accept" for row in out)


class TestImages:
    def test_without_images_it_is_the_text_alone_and_no_error(self, run: Run, here: Path, table: Path) -> None:
        ran = run("predict", table, "--output", "out.csv", "--json")
        assert json.loads(ran.out)["errors"] == 0
        assert {row["error"] for row in read_csv(here / "out.csv")} == {""}

    def test_images_change_what_is_predicted(self, run: Run, here: Path, table: Path, sample: Path) -> None:
        run("predict", table, "--output", "texts.csv")
        run("predict", table, "--output", "images.csv", "--images", sample)
        both = [read_csv(here / name) for name in ("texts.csv", "images.csv")]
        assert all(one["confidence"] != other["confidence"] for one, other in zip(*both, strict=True))

    def test_a_folder_and_a_zip_of_the_same_images_say_the_same(
        self, run: Run, here: Path, table: Path, sample: Path
    ) -> None:
        with zipfile.ZipFile(sample / IMAGES_ZIP) as packed:
            packed.extractall(here / "unpacked")  # made by the test itself
        outputs = []
        for images in (sample, sample / IMAGES_ZIP, here / "unpacked"):
            assert run("predict", table, "--output", "out.csv", "--images", images).code == 0
            outputs.append((here / "out.csv").read_bytes())
        assert outputs[0] == outputs[1] == outputs[2]

    def test_a_column_of_bytes_says_what_the_folder_says(
        self, run: Run, here: Path, table: Path, sample: Path, products: list[dict[str, str]]
    ) -> None:
        found = open_given_images(sample)
        images = [found.read(image_stem(row["productid"], row["imageid"])) for row in products]
        read(table).with_columns(image=pl.Series(images)).write_parquet(here / "in.parquet")
        assert run("predict", table, "--output", "folder.csv", "--images", sample).code == 0
        assert run("predict", "in.parquet", "--output", "column.csv").code == 0
        assert (here / "column.csv").read_bytes() == (here / "folder.csv").read_bytes()


class TestModel:
    def test_champion_version_and_folder_are_three_names_of_one_bundle(
        self, run: Run, here: Path, table: Path, store: BundleStore
    ) -> None:
        version = store.serving().champion
        assert version is not None
        outputs = []
        for words in ([], ["--model", "champion"], ["--model", version], ["--model", str(store.root / version)]):
            assert run("predict", table, "--output", "out.csv", *words).code == 0
            outputs.append((here / "out.csv").read_bytes())
        assert len(set(outputs)) == 1

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("nobody", "there is no bundle 'nobody'. The store has"),
            ("challenger", "there is no challenger"),
            ("empty", "empty: is not a bundle. `aisle train` makes one."),
        ],
    )
    def test_an_unknown_one_is_bad_input(self, run: Run, here: Path, table: Path, name: str, says: str) -> None:
        (here / "empty").mkdir()
        ran = run("predict", table, "--output", "out.csv", "--model", name)
        assert (ran.code, says in ran.complaint) == (3, True)
        assert not (here / "out.csv").exists()


class TestOutput:
    @pytest.mark.parametrize("name", ["out.txt", "out", "out.csv.gz"])
    def test_an_unknown_ending_is_wrong_use(self, run: Run, here: Path, table: Path, name: str) -> None:
        ran = run("predict", table, "--output", name)
        assert ran.code == 2
        assert f"{name}: the output is .csv or .parquet" in ran.complaint
        assert contents(here).keys() == {"in.csv"}

    def test_it_replaces_an_earlier_one_and_makes_its_folder(self, run: Run, here: Path, table: Path) -> None:
        for _ in range(2):
            assert run("predict", table, "--output", "new/deep/out.csv").code == 0
        assert contents(here).keys() == {"in.csv", "new/deep/out.csv"}

    def test_the_input_is_never_replaced(self, run: Run, here: Path, table: Path) -> None:
        before = table.read_bytes()
        ran = run("predict", table, "--output", table)
        assert ran.code == 2
        assert "would replace the input" in ran.err
        assert table.read_bytes() == before

    def test_json_is_one_object_and_nothing_else(self, run: Run, table: Path) -> None:
        out = run("predict", table, "--output", "out.csv", "--json").out
        assert out.count("\n") == 1
        assert set(json.loads(out)) == {"output", "rows", "predicted", "accepted", "errors"}

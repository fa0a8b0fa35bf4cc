"""The audit of labels: wrong ones are found, the clearest first, and the report says why."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from aisle.catalog import ProductType, ProductTypes
from aisle.cli.main import aisle
from aisle.data import raw
from aisle.data.raw import IMAGES_ZIP, LABELS_FILE
from aisle.data.sample import write_sample
from aisle.settings import get_settings
from aisle.training.evaluate import paired_gain
from aisle.training.label_audit import LabelAudit, Suspect, _suspects, contradictions, folds_of
from aisle.training.label_audit_report import write_label_audit

WRONG = 12


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A catalogue of texts in which some labels were exchanged, and their keys."""
    folder = tmp_path_factory.mktemp("harmed") / "raw"
    write_sample(folder, rows=1200, seed=0)
    (folder / IMAGES_ZIP).unlink()
    labels = raw.read_table(folder / LABELS_FILE)
    chosen = np.random.default_rng(0).permutation(len(labels))[:WRONG]
    codes = labels["prdtypecode"].to_list()
    others = list(dict.fromkeys(codes))
    for row in chosen.tolist():
        codes[row] = others[(others.index(codes[row]) + 5) % len(others)]
    raw.write_table(labels.with_columns(prdtypecode=pl.Series(codes)), folder / LABELS_FILE)
    return folder, {str(labels[""][row]) for row in chosen.tolist()}


@pytest.fixture(scope="module")
def report(harmed: tuple[Path, set[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("audit")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DATA_PATH", str(place / "data"))
        patched.setenv("LOGS_PATH", str(place / "logs"))
        get_settings.cache_clear()
        run = CliRunner().invoke(
            aisle,
            ["labels", "audit", "--data", str(harmed[0]), "--report", str(place / "report"), "--compare", "--json"],
            catch_exceptions=False,
        )
    get_settings.cache_clear()
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["report"] == str(place / "report")
    return place / "report"


def lines(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_labels_that_were_exchanged_are_among_the_suspects(report: Path, harmed: tuple[Path, set[str]]) -> None:
    """The sample's titles do not always say the type: some wrong labels nobody could see."""
    suspects = {line["key"] for line in lines(report / "suspects.csv")}
    products = len(raw.read_table(harmed[0] / LABELS_FILE))
    by_chance = WRONG * len(suspects) / products
    assert len(harmed[1] & suspects) >= max(WRONG / 2, 5 * by_chance)


@pytest.mark.slow
def test_a_suspect_says_what_speaks_for_the_other_type(report: Path) -> None:
    suspects = lines(report / "suspects.csv")
    margins = [float(one["suggested_probability"]) - float(one["label_probability"]) for one in suspects]
    assert margins == sorted(margins, reverse=True)
    assert all(one["suggested"] != one["label"] for one in suspects)
    assert all(set(one["words"].split()) <= set(one["title"].split()) for one in suspects)
    assert any(one["words"] for one in suspects)


@pytest.mark.slow
def test_the_page_and_the_figures_are_there(report: Path) -> None:
    page = (report / "labels.html").read_text()
    figures = json.loads((report / "labels.json").read_text())
    assert f"{figures['suspects']:,} (" in page
    assert "<script" not in page
    [one] = figures["comparisons"]
    assert one["on"] == "test side"
    assert one["interval"][0] <= one["gain"] <= one["interval"][1]


def table(rows: list[tuple[str, str, str | None, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["key", "title", "image_sha256", "type_code"], orient="row")


TWINS = table(
    [
        ("1", "Livre ancien", None, "10"),
        ("2", "livre  ANCIEN!", "a", "2705"),
        ("3", "Autre chose", "a", "2705"),
        ("4", "Jeu", "b", "40"),
        ("5", "Piscine", "b", "40"),
        ("6", "", None, "10"),
        ("7", "", None, "40"),
    ]
)


def test_the_same_title_with_two_types_is_a_contradiction() -> None:
    [found] = contradictions(TWINS)
    assert (found.by, found.keys, found.labels) == ("title", ("1", "2"), ("10", "2705"))


def test_the_tables_have_what_it_takes_to_show_a_product(tmp_path: Path) -> None:
    products = TWINS.with_columns(description=pl.lit(""), image=pl.format("image_{}_product_1", "key"))
    suspect = Suspect(1, "2", "2705", "10", 0.1, 0.8, ("=ancien",), ("title",))
    audit = LabelAudit(products, ("10", "2705"), np.zeros((7, 2)), (suspect,), tuple(contradictions(products)))
    types = ProductTypes([ProductType("10", "Livres anciens"), ProductType("2705", "Livres neufs")])
    found = write_label_audit(tmp_path, audit, types, None, top=5, data_hash="abc")
    assert json.loads((tmp_path / "labels.json").read_text()) == found
    assert (found["data_hash"], found["suspects"], found["contradictions"]) == ("abc", 1, 1)
    [line] = lines(tmp_path / "suspects.csv")
    assert (line["image"], line["words"]) == ("image_2_product_1", "'=ancien")
    shown = ("group", "by", "key", "label_name", "title", "image")
    assert [tuple(one[name] for name in shown) for one in lines(tmp_path / "contradictions.csv")] == [
        ("1", "title", "1", "Livres anciens", "Livre ancien", "image_1_product_1"),
        ("1", "title", "2", "Livres neufs", "livre  ANCIEN!", "image_2_product_1"),
    ]


def test_products_that_are_alike_are_judged_by_models_that_saw_neither() -> None:
    for folds in (2, 3, 5):
        fold = folds_of(TWINS, folds)
        assert fold[0] == fold[1] == fold[2]
        assert fold[3] == fold[4]
    many = table([(str(key), "", None, "10") for key in range(1000)])
    assert np.bincount(folds_of(many, 5)).min() > 140


def test_what_is_only_a_little_less_likely_than_its_label_is_not_suspect() -> None:
    probabilities = np.array([[0.9, 0.1], [0.45, 0.55], [0.1, 0.9], [0.05, 0.95], [np.nan, np.nan], [0.02, 0.98]])
    targets = np.array([0, 0, 1, 1, 1, 0])  # type 1 is usually 0.925 likely where it is the label
    assert _suspects(probabilities, targets, np.ones(6)) == [5]


@pytest.mark.slow
def test_a_gain_is_that_of_the_same_draws() -> None:
    targets = np.tile([0, 1], 100)
    wrong = targets.copy()
    wrong[:20] = 1 - wrong[:20]
    gain, (low, high) = paired_gain(targets, wrong, targets)
    assert gain == pytest.approx(10, abs=0.1)
    assert 5 < low < gain < high < 16
    assert paired_gain(targets, wrong, wrong) == (0, (0, 0))


def test_to_measure_wants_to_compare(tmp_path: Path) -> None:
    run = CliRunner().invoke(aisle, ["labels", "audit", "--measure", str(tmp_path)])
    assert "--compare" in str(run.exception or run.output)

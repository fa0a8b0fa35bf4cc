"""Catalogues unlike Rakuten's train without a change to the code: other codes, other types, other gaps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.end_to_end.conftest import Ran, contents, edit_csv, read_csv, write_csv, write_shop

from aisle.catalog import TYPES_FILE
from aisle.data.raw import LABELS_FILE, TRAIN_FILE
from aisle.model.bundle import ENCODER_FILE, MODEL_FILE, Bundle

Run = Callable[..., Ran]


@pytest.fixture
def train(run: Run, here: Path) -> Callable[[], Bundle]:
    """Train on `shop/` and load the bundle."""

    def train() -> Bundle:
        ran = run("train", "--data", "shop", "--out", "bundle")
        assert ran.code == 0, ran.err
        return Bundle.load(here / "bundle")

    return train


def predicted(run: Run, here: Path) -> list[dict[str, str]]:
    ran = run("predict", f"shop/{TRAIN_FILE}", "--output", "out.csv", "--model", "bundle")
    assert ran.code == 0, ran.err
    return read_csv(here / "out.csv")


def test_a_catalogue_without_any_image_trains_on_texts_alone(train: Callable[[], Bundle], here: Path) -> None:
    write_shop(here / "shop")
    bundle = train()
    assert bundle.json(MODEL_FILE)["text_fields"] == ["title"]
    assert ENCODER_FILE not in bundle.contents


def test_a_catalogue_without_descriptions_trains_on_the_rest(train: Callable[[], Bundle], here: Path) -> None:
    shop = write_shop(here / "shop", images=120)
    rows = read_csv(shop / TRAIN_FILE)
    header = [name for name in rows[0] if name != "description"]
    write_csv(shop / TRAIN_FILE, [header, *([row[name] for name in header] for row in rows)])
    bundle = train()
    assert bundle.json(MODEL_FILE)["text_fields"] == ["title"]
    assert ENCODER_FILE in bundle.contents


@pytest.mark.slow
def test_a_catalogue_of_images_alone_trains_on_them(train: Callable[[], Bundle], here: Path) -> None:
    def without_titles(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row["designation"] = ""

    shop = write_shop(here / "shop", images=120)
    edit_csv(shop / TRAIN_FILE, without_titles)
    bundle = train()
    assert bundle.json(MODEL_FILE)["text_fields"] == []
    assert ENCODER_FILE in bundle.contents


def test_other_codes_without_a_table_of_types_are_their_own_names(
    train: Callable[[], Bundle], run: Run, here: Path
) -> None:
    write_shop(here / "shop", codes=("livres/anciens", "100-B"))
    train()
    assert {(row["predicted"], row["label"]) for row in predicted(run, here)} == {
        ("livres/anciens", "livres/anciens"),
        ("100-B", "100-B"),
    }


def test_other_codes_with_a_table_of_types_have_its_names(train: Callable[[], Bundle], run: Run, here: Path) -> None:
    shop = write_shop(here / "shop")
    write_csv(shop / TYPES_FILE, [["prdtypecode", "label"], ["P2", "Piscines, bassins"], ["L1", "Livres"]])
    train()
    rows = predicted(run, here)
    assert {(row["predicted"], row["label"]) for row in rows} == {("P2", "Piscines, bassins"), ("L1", "Livres")}
    truth = [row["prdtypecode"] for row in read_csv(shop / LABELS_FILE)]
    assert [row["predicted"] for row in rows] == truth


def test_two_types_have_two_probabilities_that_sum_to_1(train: Callable[[], Bundle], run: Run, here: Path) -> None:
    write_shop(here / "shop")
    train()
    for row in predicted(run, here):
        assert [one["prediction"] for one in json.loads(row["top_k"])] in (["L1", "P2"], ["P2", "L1"])
        assert sum(one["confidence"] for one in json.loads(row["top_k"])) == pytest.approx(1)


def test_one_type_alone_cannot_be_learnt(run: Run, here: Path) -> None:
    write_shop(here / "shop", codes=("L1",))
    ran = run("train", "--data", "shop", "--out", "bundle")
    assert ran.code == 3
    assert "there is nothing to learn from: fewer than two types" in ran.complaint
    assert not (here / "bundle").exists()


def test_a_catalogue_that_is_too_small_is_refused_by_a_check(run: Run, here: Path) -> None:
    write_shop(here / "shop", products=1)
    before = contents(here)
    ran = run("train", "--data", "shop", "--out", "bundle")
    assert ran.code == 4
    assert "The catalogue is too small to learn from." in ran.complaint
    assert contents(here) == before

"""The model card and the data sheet: what people read of a bundle is what is in it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.service.conftest import replace_file

from aisle.data.prepare import Prepared
from aisle.files import read_json, sha256_json, write_json
from aisle.model.bundle import CARD_FILE, MANIFEST_FILE, SHEET_FILE, Bundle
from aisle.training.card import model_card
from aisle.training.datasheet import data_sheet
from aisle.training.evaluate import measure
from aisle.training.intervals import intervals


def test_a_card_has_figures_with_their_intervals_by_input_and_by_type(bundle: Bundle) -> None:
    card, figures = bundle.text(CARD_FILE), bundle.json("metrics.json")["all"]
    low, high = figures["intervals"]["weighted_f1"]
    assert low <= figures["weighted_f1"] <= high
    assert f"{figures['weighted_f1']:.3f} ({low:.3f} to {high:.3f})" in card
    for looked_at in ("all that is there", "title alone", "image alone", "products that have no description"):
        assert f"| {looked_at} |" in card
    code, one = next(iter(figures["per_type"].items()))
    assert f"| {one['rows']} | {one['f1']:.3f} ({figures['intervals']['per_type'][code][0]:.3f} to " in card


def test_a_card_says_what_for_on_what_how_sure_and_how_to_make_it_again(bundle: Bundle) -> None:
    card, lineage = bundle.text(CARD_FILE), bundle.json("lineage.json")
    for part in (
        "Purpose",
        "Version",
        "Learnt from",
        "Measured",
        "By type",
        "Calibration",
        "Limits",
        "The same again",
    ):
        assert f"\n## {part}" in card
    assert lineage["data_hash"][:12] in card
    assert lineage["code_revision"] in card
    assert "| 98% (the one that is kept) |" in card


def test_a_label_of_a_type_does_not_break_a_table(bundle: Bundle) -> None:
    types = bundle.types()
    code = next(iter(bundle.json("metrics.json")["all"]["per_type"]))
    odd = type(types)(replace(one, label="a|b\nc") if one.code == code else one for one in types.values())
    card = model_card(
        "light", odd, bundle.json("metrics.json"), bundle.json("lineage.json"), bundle.json("model.json")["decision"]
    )
    assert f"| {code} | a\\|b c |" in card


def test_a_sheet_tells_of_rows_types_languages_images_quarantine_duplicates_and_sides(
    bundle: Bundle, prepared: Prepared
) -> None:
    sheet, table = bundle.text(SHEET_FILE), prepared.products()
    assert f"{len(table)} products of {len(prepared.types())} types" in sheet
    assert f"| test | {prepared.counts['test']} | measured on |" in sheet
    assert f"- with an image: {table['image_sha256'].count()} (" in sheet
    assert "of 540 rows 2 broke the data contract and are not learnt from: image_corrupt 1, image_empty 1" in sheet
    assert "titles by language, an estimate from" in sheet
    assert "are duplicates of another one" in sheet
    assert prepared.data_hash in sheet


def test_a_catalogue_that_an_older_aisle_prepared_has_a_sheet_all_the_same(prepared: Prepared) -> None:
    assert "prepared by an older aisle" in data_sheet(replace(prepared, contract={}), None)


def test_a_bundle_without_a_sheet_still_loads(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "old"))
    (folder / SHEET_FILE).unlink()
    manifest = read_json(folder / MANIFEST_FILE)
    del manifest["files"][SHEET_FILE]
    write_json(folder / MANIFEST_FILE, manifest | {"version": sha256_json(manifest["files"])[:12]})
    assert Bundle.load(folder).text(CARD_FILE) == bundle.text(CARD_FILE)


def test_a_sheet_that_was_altered_does_not_load(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "other"))
    replace_file(folder, SHEET_FILE, b"# another\n")
    assert Bundle.load(folder).version != bundle.version


def test_intervals_are_of_the_same_figures_as_are_measured() -> None:
    chance = np.random.default_rng(0)
    probabilities = chance.dirichlet([1, 1, 1], 400)
    targets = np.where(chance.random(400) < 0.7, probabilities.argmax(axis=1), chance.integers(-1, 3, 400))
    found = intervals(targets, probabilities.argmax(axis=1), "abc")
    figures = measure(probabilities, targets, "abc")
    for name in ("accuracy", "weighted_f1", "macro_f1"):
        low, high = found[name]
        assert low < figures[name] < high
        assert figures[name] == pytest.approx((low + high) / 2, abs=0.02)
    assert found["per_type"].keys() == figures["per_type"].keys()
    assert found["per_type"]["unknown"] == [0, 0]


def test_more_products_make_narrower_intervals() -> None:
    def width(rows: int) -> float:
        targets = np.arange(rows) % 2
        low, high = intervals(targets, np.where(np.arange(rows) % 5 == 0, 1 - targets, targets), "ab")["accuracy"]
        return float(high - low)

    assert width(1600) < 0.6 * width(200)

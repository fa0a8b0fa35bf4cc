"""From a champion of the old types to one of the new ones: trained, frozen, gated and measured on what is common."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.service.conftest import replace_file

from aisle.catalog import CHANGES_FILE, TYPES_FILE
from aisle.data import raw
from aisle.data.prepare import Prepared
from aisle.errors import CatalogError
from aisle.measuring import evaluate_file, evaluate_side, judge_challenger
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.registry.frozen import frozen_products
from aisle.registry.gate import Verdict
from aisle.settings import Settings


@pytest.fixture
def settings(bundle: Bundle, prepared: Prepared, tmp_path: Path) -> Settings:
    """Of a shop whose champion is from before its types changed, as are its frozen products."""
    settings = Settings(data_path=tmp_path / "data", models_path=tmp_path / "models", cache_path=tmp_path / "cache")
    store = BundleStore(settings.models_path)
    store.add(bundle)
    store.make_champion(bundle.version)
    frozen_products(store.root, prepared)
    return settings


def finding(verdict: Verdict, name: str) -> str:
    return next((one.finding for one in verdict.criteria if one.name == name), "")


def test_a_bundle_knows_what_became_of_types_under_its_sums(later_bundle: Bundle, bundle: Bundle) -> None:
    assert dict(later_bundle.changes()) == {"2705": "10", "40": "41", "60": None}
    assert not bundle.changes()
    assert CHANGES_FILE not in bundle.contents


def test_a_bundle_whose_changes_are_nonsense_says_so(later_bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(later_bundle.path, tmp_path / "bundle"))
    replace_file(folder, CHANGES_FILE, b"prdtypecode,becomes\n1,2\n2,1\n")
    with pytest.raises(CatalogError, match="becomes itself"):
        Bundle.load(folder).changes()


@pytest.mark.slow
def test_the_new_model_is_gated_against_the_old_champion_on_the_frozen_products(
    settings: Settings, bundle: Bundle, later_bundle: Bundle, prepared: Prepared, later_prepared: Prepared
) -> None:
    verdict = judge_challenger(later_bundle, later_prepared.folder, settings)
    rows = frozen_products(settings.models_path, later_prepared)
    before = prepared.products().filter(side="test")
    fell_away = before.filter(type_code="60")
    assert verdict.rows == len(rows) == len(before) - len(fell_away)
    added = rows.filter(type_code="2906")
    assert verdict.common is not None
    assert verdict.common.added == ({"2906": len(added)} if len(added) else {})
    assert verdict.common.rows == len(rows) - len(added)
    assert verdict.common.changed == {"2705": "10", "40": "41", "60": None}
    assert (verdict.challenger, verdict.champion) == (later_bundle.version, bundle.version)
    said = finding(verdict, "common types")
    assert "mapped: 40 → 41, 2705 → 10" in said
    assert "fell away: 60" in said
    # The champion is not wrong for calling things by their old names, so neither is far ahead.
    assert abs(float(finding(verdict, "weighted F1").split(" points")[0])) < 10


def test_the_old_champion_keeps_its_accuracy_on_the_new_table(
    settings: Settings, bundle: Bundle, prepared: Prepared, later_prepared: Prepared
) -> None:
    """Only on the products of the added type is it wrong, and it knows that it does not know it."""
    before = evaluate_side(bundle, prepared, settings)
    after = evaluate_side(bundle, later_prepared, settings)
    added = [row for row, code in enumerate(after.true_codes) if code == "2906"]
    assert (after.targets[added] == -1).all()
    known = np.flatnonzero(after.targets >= 0)
    right = (after.probabilities.argmax(axis=1) == after.targets)[known].mean()
    assert right >= before.figures["accuracy"] - 0.02
    assert {"10", "41"} <= set(after.codes)
    assert not {"2705", "40", "60"} & set(after.codes)
    assert after.types["41"].label == "Rétro"


def test_a_table_with_old_labels_measures_the_new_model_and_rows_without_a_type_are_counted(
    settings: Settings, later_bundle: Bundle, sample: Path, tmp_path: Path
) -> None:
    labels = raw.read_products(sample / raw.LABELS_FILE, required=("key", "type_code"))
    table = raw.read_table(sample / raw.TRAIN_FILE).hstack(labels.select(prdtypecode="type_code")).head(200)
    table.write_csv(tmp_path / "old.csv")
    figures = evaluate_file(later_bundle, tmp_path / "old.csv", settings).figures
    retired = len(table.filter(prdtypecode="60"))
    assert figures["retired"] == retired > 0
    assert figures["rows"] == 200 - retired
    assert figures["accuracy"] > 0.7


def test_a_table_in_the_folder_of_a_catalogue_is_read_in_its_types(
    settings: Settings, bundle: Bundle, later_catalogue: Path, tmp_path: Path
) -> None:
    """The old model beside the new labels: it is told what its types are today by the folder alone."""
    labels = raw.read_products(later_catalogue / raw.LABELS_FILE, required=("key", "type_code"))
    today = labels.select(prdtypecode=pl.col("type_code").replace({"2705": "10", "40": "41"}))
    table = raw.read_table(later_catalogue / raw.TRAIN_FILE).hstack(today).head(200)
    table.write_csv(tmp_path / "gold_dev.csv")
    alone = evaluate_file(bundle, tmp_path / "gold_dev.csv", settings).figures["accuracy"]
    (tmp_path / CHANGES_FILE).write_bytes((later_catalogue / CHANGES_FILE).read_bytes())
    (tmp_path / TYPES_FILE).write_bytes((later_catalogue / TYPES_FILE).read_bytes())
    assert evaluate_file(bundle, tmp_path / "gold_dev.csv", settings).figures["accuracy"] > alone + 0.02

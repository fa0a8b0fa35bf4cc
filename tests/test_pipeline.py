"""The stages in a row: what is done is not done again, and every path sees the same product."""

from __future__ import annotations

from pathlib import Path

import pytest

from aisle.data.prepare import Prepared
from aisle.data.split import Side
from aisle.measuring import evaluate_file, evaluate_side
from aisle.model.bundle import Bundle
from aisle.pipeline import train_bundle
from aisle.registry.bundles import BundleStore
from aisle.settings import Settings
from aisle.training.recipes import light


@pytest.fixture
def settings(tmp_path: Path, cache: Path) -> Settings:
    return Settings(data_path=tmp_path / "data", models_path=tmp_path / "models", cache_path=cache)


def test_a_side_measured_through_the_way_in_gives_what_training_measured_on_cached_features(
    bundle: Bundle, prepared: Prepared, settings: Settings
) -> None:
    measured = evaluate_side(bundle, prepared, settings, side=Side.TEST).figures
    trained = bundle.json("metrics.json")["all"]
    assert trained.pop("intervals")  # of the model card, which an evaluation does without
    assert {name: measured[name] for name in trained} == trained


def test_the_first_bundle_of_a_store_is_its_champion_and_is_not_trained_twice(
    prepared: Prepared, settings: Settings
) -> None:
    first = train_bundle(light(), prepared.folder, settings, who="anne")
    again = train_bundle(light(), prepared.folder, settings, who="anne")
    assert (first.new, again.new) == (True, False)
    assert first.bundle.version == again.bundle.version
    assert BundleStore(settings.models_path).serving().champion == first.bundle.version


def test_a_file_is_measured_on_the_fields_that_are_named(
    bundle: Bundle, sample: Path, settings: Settings, tmp_path: Path
) -> None:
    labels = dict(line.split(",") for line in (sample / "Y_train_CVw08PX.csv").read_text().splitlines()[1:])
    header, *rows = (sample / "X_train_update.csv").read_text().splitlines()[:40]
    labelled = [f"{row},{labels[row.split(',')[0]]}" for row in rows if row.split(",")[0] in labels]
    file = tmp_path / "labelled.csv"
    file.write_text("\n".join([f"{header},prdtypecode", *labelled]) + "\n")
    everything = evaluate_file(bundle, file, settings, images=sample / "images.zip")
    title = evaluate_file(bundle, file, settings, images=sample / "images.zip", fields=("title",))
    assert everything.figures["rows"] == title.figures["rows"] == len(labelled)
    assert everything.figures["log_loss"] != title.figures["log_loss"]
    assert all(product.image is None and not product.description for product in title.products)
    assert any(product.image for product in everything.products)

"""What the recipe `light` is worth on real products; skipped where they are not beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from aisle.measuring import evaluate_file
from aisle.model.bundle import Bundle
from aisle.pipeline import train_bundle
from aisle.settings import Settings
from aisle.training.recipes import light

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("real")
    return Settings(data_path=folder / "data", models_path=folder / "models", cache_path=folder / "cache")


@pytest.fixture
def real_bundle(real_catalogue: Path, place: Settings) -> Bundle:
    return train_bundle(light(), real_catalogue, place, who="anne").bundle


@pytest.mark.timeout(900)
def test_titles_are_classified_as_well_as_promised(
    real_bundle: Bundle, real_catalogue: Path, place: Settings
) -> None:
    figures = evaluate_file(real_bundle, real_catalogue / "gold_dev.csv", place, fields=("title",)).figures
    assert figures["rows"] == 1055
    assert figures["weighted_f1"] >= 0.78


@pytest.mark.timeout(900)
def test_a_description_does_no_harm(real_bundle: Bundle, real_catalogue: Path, place: Settings) -> None:
    file = real_catalogue / "gold_dev.csv"
    both = evaluate_file(real_bundle, file, place, fields=("title", "description")).figures
    title = evaluate_file(real_bundle, file, place, fields=("title",)).figures
    assert both["weighted_f1"] >= title["weighted_f1"]


@pytest.mark.timeout(900)
def test_an_image_helps_on_products_that_were_not_learnt_from(real_bundle: Bundle) -> None:
    metrics = real_bundle.json("metrics.json")
    assert metrics["all"]["log_loss"] < min(metrics["title"]["log_loss"], metrics["image"]["log_loss"])

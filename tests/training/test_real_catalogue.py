"""What the recipe `light` is worth on real products; skipped where they are not beside the repository.

Every time without its transformer and without images, which take eight of the nine minutes; with them by hand
(`make soak`). `python -m benchmarks real_catalogue image_models` says what each of them adds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from benchmarks.networks import fewer_images

from aisle.batch.table import product_rows, read_product_table
from aisle.measuring import evaluate_file
from aisle.model.bundle import Bundle
from aisle.model.predictor import Predictor
from aisle.pipeline import train_bundle
from aisle.settings import Settings
from aisle.training.behaviour import INVARIANCES, REWRITINGS, behaviours
from aisle.training.recipes import Light, light

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("real")
    return Settings(data_path=folder / "data", models_path=folder / "models", cache_path=folder / "cache")


@dataclass(frozen=True)
class Promise:
    recipe: Light
    title_f1: float


def promises() -> dict[str, Promise]:
    whole = light()
    return {"texts": Promise(replace(whole, transformer=None), 0.775), "whole": Promise(whole, 0.78)}


@pytest.fixture(params=["texts", pytest.param("whole", marks=pytest.mark.soak)])
def promise(request: pytest.FixtureRequest) -> Promise:
    return promises()[request.param]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts") / "raw"


@pytest.fixture
def real_bundle(
    real_catalogue: Path, texts: Path, place: Settings, promise: Promise, request: pytest.FixtureRequest
) -> Bundle:
    raw = real_catalogue
    if "texts" in request.node.callspec.id:
        raw = texts if texts.is_dir() else fewer_images(real_catalogue, texts, 0)
    return train_bundle(promise.recipe, raw, place, who="anne").bundle  # once: the store finds it again


@pytest.mark.timeout(1500)
def test_titles_are_classified_as_well_as_promised(
    real_bundle: Bundle, real_catalogue: Path, place: Settings, promise: Promise
) -> None:
    figures = evaluate_file(real_bundle, real_catalogue / "gold_dev.csv", place, fields=("title",)).figures
    assert figures["rows"] == 1055
    assert figures["weighted_f1"] >= promise.title_f1


@pytest.mark.timeout(1500)
def test_a_description_does_no_harm(real_bundle: Bundle, real_catalogue: Path, place: Settings) -> None:
    file = real_catalogue / "gold_dev.csv"
    both = evaluate_file(real_bundle, file, place, fields=("title", "description")).figures
    title = evaluate_file(real_bundle, file, place, fields=("title",)).figures
    assert both["weighted_f1"] >= title["weighted_f1"]


@pytest.mark.timeout(1500)
@pytest.mark.soak
@pytest.mark.parametrize("promise", ["whole"], indirect=True)
def test_an_image_helps_on_products_that_were_not_learnt_from(real_bundle: Bundle) -> None:
    metrics = real_bundle.json("metrics.json")
    assert metrics["all"]["log_loss"] < min(metrics["title"]["log_loss"], metrics["image"]["log_loss"])


@pytest.mark.timeout(1500)
def test_it_says_the_same_however_a_product_is_written(real_bundle: Bundle, real_catalogue: Path) -> None:
    table = read_product_table(real_catalogue / "gold_dev.csv", images=None, labelled=True)
    products = [one.product for one in product_rows(table, None)]
    with Predictor(real_bundle, threads=2) as predictor:
        found = behaviours(predictor, products, [*INVARIANCES, *REWRITINGS])
    assert [one for one in found if not one.holds] == []

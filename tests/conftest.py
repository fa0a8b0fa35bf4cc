"""What every test may use: a small generated catalogue, a bundle trained on it, and a clean log."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import structlog
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from aisle.catalog import CHANGES_FILE, TYPES_FILE, ProductType, ProductTypes, TypeChanges
from aisle.data import raw
from aisle.data.prepare import Prepared, PrepareOptions, prepare
from aisle.data.sample import write_sample
from aisle.data.split import Shares
from aisle.data.validate import validate
from aisle.model.bundle import Bundle
from aisle.model.predictor import Predictor
from aisle.settings import Settings, get_settings
from aisle.training.recipes import light
from aisle.training.train import train

pytest_plugins = ["servers"]  # PostgreSQL and Redis

WITH_CONTAINERS = {
    f"tests/deploy/test_{name}.py" for name in ("airflow", "celery", "compose", "images", "monitoring")
}
REAL_DATA = Path(__file__).parents[2] / "shared" / "rakuten"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Of tests side by side a file stays together, and so do those with containers: there is one Docker engine."""

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "containers" if file in WITH_CONTAINERS else file

    return ByFile(config, log)


@pytest.fixture(autouse=True)
def _fresh_logging() -> Iterator[None]:
    """No test sees the log configuration of another."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root = logging.getLogger()
    for handler in list(root.handlers):
        if getattr(handler, "_aisle", False):
            root.removeHandler(handler)
            handler.close()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the developer's environment nor a `.env` reaches a test."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setitem(os.environ, "LOGS_PATH", str(tmp_path / "logs"))
    monkeypatch.setitem(os.environ, "MLFLOW_TRACKING_URI", "off")  # its tests say where it is
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated catalogue of 540 products. Read it, do not write to it."""
    folder = tmp_path_factory.mktemp("sample") / "raw"
    write_sample(folder, rows=540, seed=0)
    return folder


@pytest.fixture(scope="session")
def prepared(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The sample catalogue, validated and prepared, with sides large enough to measure on."""
    place = tmp_path_factory.mktemp("prepared")
    validate(sample, place / "validated")
    return prepare(place / "validated", place / "preprocessed", options=PrepareOptions(Shares(0.15, 0.2)))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image features, computed once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def bundle(prepared: Prepared, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A `light` bundle trained on the sample catalogue."""
    return train(light(), prepared, tmp_path_factory.mktemp("bundle") / "bundle", cache=cache, threads=2)


@pytest.fixture(scope="session")
def later_catalogue(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample after a year: 2705 went into 10, 40 is 41 now, 60 fell away, half of 2905 is the new type 2906, and
    2583 has another name. Read it, do not write to it."""
    folder = Path(shutil.copytree(sample, tmp_path_factory.mktemp("later") / "raw"))
    types = {one.code: one.label for one in ProductTypes.from_csv(folder / TYPES_FILE).values()}
    kept = {code: label for code, label in types.items() if code not in ("2705", "40", "60")}
    today = kept | {"41": "Rétro", "2906": "Jeux neufs", "2583": "Piscines"}
    table = ProductTypes(ProductType(code, label) for code, label in today.items())
    (folder / TYPES_FILE).write_text(table.to_csv())
    (folder / CHANGES_FILE).write_text(TypeChanges({"2705": "10", "40": "41", "60": None}).to_csv())
    labels = raw.read_table(folder / raw.LABELS_FILE)
    of_2905 = pl.col("prdtypecode") == "2905"
    is_new = of_2905 & (of_2905.cum_sum() % 2 == 0)
    new = pl.when(is_new).then(pl.lit("2906")).otherwise("prdtypecode")
    raw.write_table(labels.with_columns(prdtypecode=new), folder / raw.LABELS_FILE)
    return folder


@pytest.fixture(scope="session")
def later_prepared(later_catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The later catalogue, validated and prepared as the sample is."""
    place = tmp_path_factory.mktemp("later_prepared")
    validate(later_catalogue, place / "validated")
    return prepare(place / "validated", place / "preprocessed", options=PrepareOptions(Shares(0.15, 0.2)))


@pytest.fixture(scope="session")
def later_bundle(later_prepared: Prepared, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A `light` bundle trained on the later catalogue."""
    return train(light(), later_prepared, tmp_path_factory.mktemp("later") / "bundle", cache=cache, threads=2)


@pytest.fixture(scope="session")
def predictor(bundle: Bundle) -> Iterator[Predictor]:
    with Predictor(bundle, threads=2) as loaded:
        yield loaded


@pytest.fixture
def real_catalogue() -> Path:
    """The real catalogue beside the repository."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real catalogue is not beside the repository (../shared/rakuten)")
    return REAL_DATA

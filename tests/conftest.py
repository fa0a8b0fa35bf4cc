"""What every test may use: a small generated catalogue, a bundle trained on it, and a clean log."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

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

REAL_DATA = Path(__file__).parents[2] / "shared" / "rakuten"


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
def predictor(bundle: Bundle) -> Iterator[Predictor]:
    with Predictor(bundle, threads=2) as loaded:
        yield loaded


@pytest.fixture
def real_catalogue() -> Path:
    """The real catalogue beside the repository."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real catalogue is not beside the repository (../shared/rakuten)")
    return REAL_DATA

"""What every test may use: a small generated catalogue, a bundle trained on it, and a clean log."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
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
from aisle.training.recipes import Recipe, light
from aisle.training.train import train

pytest_plugins = ["servers"]  # PostgreSQL and Redis

WITH_CONTAINERS = {f"tests/deploy/test_{name}.py" for name in ("compose", "images", "monitoring")}
PATIENCE_SECONDS = 60
"""With a service on a machine that runs everything at once; five, as httpx has by itself, are little."""
LONGEST = 4000
"""So many characters of what a test failed with are said at once; the whole comes at the end."""
REAL_DATA = Path(__file__).parents[2] / "shared" / "rakuten"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Of tests side by side a file stays together, and so do those with containers: there is one Docker engine."""

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "containers" if file in WITH_CONTAINERS else file

    return ByFile(config, log)


class _Failures:
    """A run that is cut off before its end has said what failed."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self.terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.terminal.ensure_newline()
            self.terminal.write_line(f"{report.nodeid} failed ({report.when}):\n{report.longreprtext[-LONGEST:]}")


def pytest_configure(config: pytest.Config) -> None:
    for function in (httpx.get, httpx.post, httpx.put, httpx.delete, httpx.request, httpx.Client.__init__):
        function.__kwdefaults__ = {**(function.__kwdefaults__ or {}), "timeout": PATIENCE_SECONDS}


def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    terminal = config.pluginmanager.get_plugin("terminalreporter")  # not there yet in `pytest_configure`
    if terminal and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Failures(terminal))


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


Once = Callable[[str, Callable[[Path], object]], Path]
"""`once(name, make)`: the folder that `make` wrote, in whichever of the tests' processes asked for it first."""


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """What takes long to make is made once for all the processes of a run. Read it, do not write to it."""
    place = tmp_path_factory.getbasetemp()
    place = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "once"

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = place / name, place / f"{name}.done"
        folder.mkdir(parents=True, exist_ok=True)
        with (place / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def sample(once: Once) -> Path:
    """A generated catalogue of 540 products."""
    return once("sample", lambda folder: write_sample(folder / "raw", rows=540, seed=0)) / "raw"


@pytest.fixture(scope="session")
def prepared(sample: Path, once: Once) -> Prepared:
    """The sample catalogue, validated and prepared, with sides large enough to measure on."""
    return Prepared.open(once("prepared", lambda folder: validate_and_prepare(sample, folder)) / "preprocessed")


def validate_and_prepare(raw_folder: Path, folder: Path) -> None:
    validate(raw_folder, folder / "validated")
    prepare(folder / "validated", folder / "preprocessed", options=PrepareOptions(Shares(0.15, 0.2)))


@pytest.fixture(scope="session")
def cache(once: Once) -> Path:
    """Image features, computed once for all tests."""
    return once("cache", lambda folder: None)


@pytest.fixture(scope="session")
def bundle(prepared: Prepared, cache: Path, once: Once) -> Bundle:
    """A `light` bundle trained on the sample catalogue."""
    return Bundle.load(once("bundle", lambda folder: learn(light(), prepared, folder, cache)) / "bundle")


def learn(recipe: Recipe, prepared: Prepared, folder: Path, cache: Path) -> None:
    train(recipe, prepared, folder / "bundle", cache=cache, threads=2)


@pytest.fixture(scope="session")
def later_catalogue(sample: Path, once: Once) -> Path:
    """The sample after a year: 2705 went into 10, 40 is 41 now, 60 fell away, half of 2905 is the new type 2906, and
    2583 has another name."""
    return once("later_catalogue", lambda folder: a_year_later(sample, folder / "raw")) / "raw"


def a_year_later(sample: Path, folder: Path) -> None:
    shutil.copytree(sample, folder)
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


@pytest.fixture(scope="session")
def later_prepared(later_catalogue: Path, once: Once) -> Prepared:
    """The later catalogue, validated and prepared as the sample is."""
    made = once("later_prepared", lambda folder: validate_and_prepare(later_catalogue, folder))
    return Prepared.open(made / "preprocessed")


@pytest.fixture(scope="session")
def later_bundle(later_prepared: Prepared, cache: Path, once: Once) -> Bundle:
    """A `light` bundle trained on the later catalogue."""
    return Bundle.load(once("later_bundle", lambda folder: learn(light(), later_prepared, folder, cache)) / "bundle")


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

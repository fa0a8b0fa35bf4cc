"""Experiments in real processes: under load, with several workers, killed, and without a database."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.servers import new_cluster
from tests.service.processes import Load, Running, Shop, sign_in, wait_for
from tests.service.test_experiments import calling_each_type_by_another_name
from tests.service.test_processes import metric

from aisle.experiments import run
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.service import aside
from aisle.settings import Settings
from aisle.store import audit
from aisle.store.engine import open_database, reading
from aisle.store.experiments import Outcome

pytestmark = pytest.mark.slow


@pytest.fixture
def shop(tmp_path: Path, bundle: Bundle, other_bundle: Bundle) -> Shop:
    """A champion, a good challenger and one that is wrong about everything."""
    store = BundleStore(tmp_path / "models")
    shutil.copytree(bundle.path, tmp_path / "bad")
    calling_each_type_by_another_name(tmp_path / "bad")
    for one in (bundle, other_bundle, Bundle.load(tmp_path / "bad")):
        store.add(one)
    store.make_champion(bundle.version)
    return Shop.at(tmp_path)


@pytest.fixture
def tokens(shop: Shop) -> Iterator[Running]:
    with shop.running("auth") as running:
        yield running


@pytest.fixture
def settings(shop: Shop) -> Settings:
    return settings_of(shop, f"sqlite:///{shop.folder / 'data' / 'aisle.db'}")


def settings_of(shop: Shop, url: str) -> Settings:
    return Settings(database_url=url, models_path=shop.folder / "models")


def bad_of(shop: Shop) -> str:
    return Bundle.load(shop.folder / "bad").version


def challengers() -> list[int]:
    """The processes of all challengers on this machine."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if aside.__name__ in (folder / "cmdline").read_text().split("\0"):
                found.append(int(folder.name))
    return found


def runs(number: int) -> bool:
    return Path(f"/proc/{number}").exists()


class DifferentProducts(Load):
    """Each request is about another product."""

    numbers = itertools.count()

    def body(self) -> dict[str, object]:
        return {"designation": f"Piscine ronde {next(self.numbers)}"}


def test_two_workers_stop_a_bad_shadow_once_and_no_request_fails(
    shop: Shop, tokens: Running, settings: Settings, bundle: Bundle
) -> None:
    with shop.running("serve", "--workers", "2") as service:
        begun = run.start(settings, "shadow", bad_of(shop), who="test")
        with DifferentProducts(service.url, sign_in(service.url), connecting=True) as load:
            wait_for(lambda: run.get(settings, begun.id).outcome is Outcome.WORSE)
            wait_for(lambda: metric(service.url, "aisle_experiment_running") == 0)
            load.answered(20)
        assert set(load.statuses) == {200}, load.statuses
        assert set(load.models) == {bundle.version}
        assert metric(service.url, "aisle_experiments_stopped_total") == 1
    engine = open_database(settings.database_url)
    with reading(engine) as connection:
        assert [one.what for one in audit.entries(connection)].count("experiment.end") == 1


def test_a_canary_whose_processes_are_killed_again_and_again_is_stopped_and_no_request_fails(
    shop: Shop, tokens: Running, settings: Settings, other_bundle: Bundle
) -> None:
    with shop.running("serve") as service:
        begun = run.start(settings, "canary", other_bundle.version, who="test", share=0.5)
        with DifferentProducts(service.url, sign_in(service.url)) as load:
            wait_for(lambda: load.models[other_bundle.version])
            while run.get(settings, begun.id).outcome is None:
                for child in challengers():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                load.answered(5)
            load.answered(20)
        assert set(load.statuses) == {200}, load.statuses
        assert (run.get(settings, begun.id).reason or "").startswith("errors")


def test_a_service_that_is_killed_leaves_no_challenger_and_the_next_one_takes_part(
    shop: Shop, tokens: Running, settings: Settings, other_bundle: Bundle
) -> None:
    begun = run.start(settings, "canary", other_bundle.version, who="test", share=0.5)
    with shop.running("serve") as service:
        with DifferentProducts(service.url, sign_in(service.url)) as load:
            wait_for(lambda: load.models[other_bundle.version])
        its = challengers()
        assert its
        service.process.kill()
        wait_for(lambda: not any(map(runs, its)))
    assert run.get(settings, begun.id).outcome is None
    with shop.running("serve") as service:
        with DifferentProducts(service.url, sign_in(service.url)) as load:
            wait_for(lambda: load.models[other_bundle.version])
        assert set(load.statuses) == {200}, load.statuses
        its = challengers()
        assert service.stop() == 0
        assert not any(map(runs, its))


def test_while_the_database_is_away_both_answer_as_before_and_after_it_the_experiment_goes_on(
    shop: Shop, tokens: Running, bundle: Bundle, other_bundle: Bundle
) -> None:
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(new_cluster())
        database = stack.enter_context(contextlib.ExitStack())
        database.enter_context(cluster.running())
        settings = settings_of(shop, cluster.url)
        service = stack.enter_context(shop.running("serve", DATABASE_URL=cluster.url))
        begun = run.start(settings, "canary", other_bundle.version, who="test", share=0.5)
        with DifferentProducts(service.url, sign_in(tokens.url)) as load:
            wait_for(lambda: load.models[other_bundle.version])
            database.close()
            wait_for(lambda: "experiments not followed" in service.log)
            before = load.models.copy()
            wait_for(lambda: all(load.models[one] > before[one] for one in (bundle.version, other_bundle.version)))
            assert httpx.get(f"{service.url}/readyz").status_code == 200
            database.enter_context(cluster.running())
            run.stop(settings, begun, reason="lunch", who="test")
            wait_for(lambda: metric(service.url, "aisle_experiment_running") == 0)
        assert set(load.statuses) == {200}, load.statuses

"""Starting and ending experiments, by functions and by the verbs of the command line."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine
from tests.experiments.conftest import NOW, Trial
from tests.service.conftest import answering_wrongly, change_table, damaged

from aisle.cli import aisle
from aisle.errors import AisleError, BundleError, CheckFailed, InputError, ServiceMissing, UsageError
from aisle.experiments import run
from aisle.experiments.judge import Rules
from aisle.model.bundle import MODEL_FILE, Bundle
from aisle.registry.bundles import BundleStore
from aisle.settings import Settings, get_settings
from aisle.store import audit, experiments
from aisle.store.engine import open_database, reading, writing
from aisle.store.experiments import Arm, Experiment, Kind, Outcome


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of an empty folder, for the verbs as well."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'aisle.db'}")
    monkeypatch.setenv("MODELS_PATH", str(tmp_path / "models"))
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def store(settings: Settings, bundle: Bundle) -> BundleStore:
    store = BundleStore(settings.models_path)
    store.add(bundle)
    store.make_champion(bundle.version)
    return store


@pytest.fixture
def challenger(store: BundleStore, bundle: Bundle, tmp_path: Path) -> str:
    """Another version of the store."""
    shutil.copytree(bundle.path, tmp_path / "other")
    change_table(tmp_path / "other", MODEL_FILE, lambda model: model.update(codes=model["codes"][::-1]))
    other = Bundle.load(tmp_path / "other")
    store.add(other)
    return other.version


def begun(settings: Settings, challenger: str, kind: str = "shadow", **more: Any) -> Experiment:
    return run.start(settings, kind, challenger, who="anne", **more)


def trail_of(settings: Settings) -> list[audit.Entry]:
    engine = open_database(settings.database_url)
    with reading(engine) as connection:
        return audit.entries(connection)


def test_an_experiment_begins_and_ends_with_an_entry_in_the_trail(
    settings: Settings, challenger: str, bundle: Bundle
) -> None:
    first = begun(settings, challenger, products=7)
    assert run.current(settings) == first
    assert (first.kind, first.champion, first.challenger, first.share) == ("shadow", bundle.version, challenger, 1.0)
    assert Rules.of(first) == Rules(products=7)
    ended = run.stop(settings, reason="lunch", who="bob")
    assert (ended.outcome, ended.reason) == (Outcome.STOPPED, "lunch")
    assert ended.findings
    assert run.current(settings) is None
    assert [(one.who, one.what, one.subject) for one in trail_of(settings)] == [
        ("anne", "experiment.start", "1"),
        ("bob", "experiment.end", "1"),
    ]
    assert begun(settings, challenger, "canary").share == 0.1
    assert [one.id for one in run.latest(settings)] == [2, 1]


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"kind": "bandit"}, UsageError, "shadow, canary, ab"),
        ({"kind": "canary", "share": 0.0}, UsageError, "above 0"),
        ({"kind": "canary", "share": 1.0}, UsageError, "below 1"),
        ({"kind": "canary", "share": 1.1}, UsageError, "below 1"),
        ({"kind": "canary", "share": -0.1}, UsageError, "above 0"),
        ({"kind": "ab", "share": float("nan")}, UsageError, "below 1"),
        ({"share": 1.5}, UsageError, "1 at most"),
        ({"products": 0}, UsageError, "products"),
        ({"rules": Rules(unit="user")}, UsageError, "by product"),
    ],
)
def test_what_cannot_be_is_refused(
    settings: Settings, challenger: str, wrong: dict[str, Any], error: type[AisleError], words: str
) -> None:
    with pytest.raises(error, match=words):
        begun(settings, challenger, **wrong)
    assert run.current(settings) is None


def test_a_challenger_that_is_not_there_is_refused(settings: Settings, store: BundleStore) -> None:
    with pytest.raises(InputError, match="no bundle 'ffffffffffff'"):
        begun(settings, "ffffffffffff")
    with pytest.raises(InputError, match="no challenger"):
        begun(settings, "challenger")


def test_the_champion_is_not_its_own_challenger(settings: Settings, store: BundleStore, bundle: Bundle) -> None:
    for name in ("champion", bundle.version):
        with pytest.raises(UsageError, match="is the champion"):
            begun(settings, name)


def test_without_a_champion_there_is_nothing_to_compare_with(settings: Settings) -> None:
    with pytest.raises(InputError, match="no champion"):
        begun(settings, "challenger")


def test_a_bundle_outside_the_store_is_refused(settings: Settings, challenger: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not in the bundle store"):
        begun(settings, str(tmp_path / "other"))


@pytest.mark.parametrize("harm", [damaged, answering_wrongly])
def test_a_challenger_that_could_not_serve_is_refused(
    settings: Settings, store: BundleStore, challenger: str, harm: Callable[[Path], object]
) -> None:
    harm(store.root / challenger)
    with pytest.raises(BundleError):
        begun(settings, challenger)
    assert run.current(settings) is None


def test_the_registered_challenger_is_the_default_of_the_verb(
    settings: Settings, store: BundleStore, challenger: str
) -> None:
    store.make_challenger(challenger)
    assert begun(settings, "challenger").challenger == challenger


def test_while_one_runs_a_second_one_is_refused_and_named(settings: Settings, challenger: str) -> None:
    first = begun(settings, challenger)
    with pytest.raises(CheckFailed, match=f"experiment {first.id} .shadow of {challenger}. is running"):
        begun(settings, challenger, "canary")


def test_the_share_only_grows(settings: Settings, challenger: str) -> None:
    begun(settings, challenger, "canary", share=0.2)
    assert run.set_share(settings, 0.5, who="bob").share == 0.5
    with pytest.raises(UsageError, match="only grows"):
        run.set_share(settings, 0.4, who="bob")
    with pytest.raises(UsageError, match="below 1"):
        run.set_share(settings, 1.0, who="bob")
    entry = trail_of(settings)[-1]
    assert (entry.what, entry.before, entry.after) == ("experiment.share", {"share": 0.2}, {"share": 0.5})


def test_where_none_runs_there_is_nothing_to_stop(settings: Settings) -> None:
    with pytest.raises(CheckFailed, match="no experiment is running"):
        run.stop(settings, reason="x", who="y")
    with pytest.raises(CheckFailed, match="no experiment is running"):
        run.set_share(settings, 0.5, who="y")
    with pytest.raises(InputError, match="no experiment 7"):
        run.get(settings, 7)


def test_one_that_is_over_stays_as_it_is(settings: Settings, challenger: str) -> None:
    first = begun(settings, challenger)
    ended = run.stop(settings, first, reason="first", who="anne")
    assert run.stop(settings, first, reason="second", who="bob") == ended
    assert run.finish(settings, first, who="bob") == ended


def test_an_experiment_is_finished_once_it_has_seen_enough(settings: Settings, challenger: str) -> None:
    first = begun(settings, challenger, products=3)
    trial = Trial(open_database(settings.database_url), first)
    for number in range(3):
        assert run.finish(settings, first, who="anne").outcome is None
        trial.predicted(shadow="10", product=f"{number}")
    assert run.findings(settings, first).has_enough
    ended = run.finish(settings, first, who="anne")
    assert (ended.outcome, ended.reason and ended.reason[:15]) == (Outcome.ENOUGH, "3 products seen")


def test_without_the_database_nothing_is_started(store: BundleStore, challenger: str, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    away = Settings(database_url=f"sqlite:///{tmp_path / 'away'}", models_path=store.root)
    with pytest.raises(ServiceMissing):
        begun(away, challenger)


# The verbs


def said(*words: str) -> Any:
    done = CliRunner().invoke(aisle, ["experiment", *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


def shown(*words: str) -> str:
    done = CliRunner().invoke(aisle, ["experiment", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_verbs_start_show_change_and_stop_it(settings: Settings, challenger: str, bundle: Bundle) -> None:
    assert shown("status") == shown("list") == "there was no experiment yet\n"
    started = said("start", "canary", "--challenger", challenger, "--share", "0.2", "--products", "5")
    assert (started["outcome"], started["share"], started["rules"]["products"]) == ("running", 0.2, 5)
    assert said("share", "0.5")["share"] == 0.5
    trial = Trial(open_database(settings.database_url), run.get(settings, 1))
    trial.predicted(Arm.CHAMPION, "10", right="10")
    trial.predicted(Arm.CHALLENGER, "10", right="20")
    status = said("status")
    assert status["findings"]["criteria"]["accuracy"]["worse"] == 1
    text = shown("status")
    assert "accuracy: worse in 1 of 1 that tell" in text
    assert "challenger: 1 products, failed at 0, 10.0 ms on average, right in 0.0% (0.0% to " in text
    assert said("stop", "--reason", "lunch")["outcome"] == "stopped"
    assert [one["outcome"] for one in said("list")["experiments"]] == ["stopped"]
    assert f"1  canary  {challenger} beside {bundle.version}  share 0.5  stopped: lunch" in shown("list")
    assert "lunch" in shown("status", "1")


# Several at once, on either database


def started_by(engine: Engine, who: str) -> Experiment:
    with writing(engine) as connection:
        return experiments.start(
            connection, kind=Kind.SHADOW, champion="a", challenger="b", share=1, rules={}, who=who, at=NOW
        )


def together(*works: Callable[[], object]) -> list[object]:
    """What each said, or its error, all begun at the same time."""
    found: list[object] = [None] * len(works)
    barrier = threading.Barrier(len(works))

    def do(number: int) -> None:
        barrier.wait()
        try:
            found[number] = works[number]()
        except AisleError as error:
            found[number] = error

    threads = [threading.Thread(target=do, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_of_several_that_start_one_at_the_same_time_one_does(engine: Engine) -> None:
    found = together(*(lambda who=f"user {n}": started_by(engine, who) for n in range(4)))
    assert sorted(type(one).__name__ for one in found) == ["CheckFailed"] * 3 + ["Experiment"]


def test_of_several_that_end_it_at_the_same_time_one_does_and_writes_the_entry(engine: Engine) -> None:
    number = started_by(engine, "anne").id

    def end() -> bool:
        with writing(engine) as connection:
            return experiments.end(
                connection, number, outcome=Outcome.WORSE, reason="errors", who="service", at=NOW, findings={}
            )

    assert sorted(map(bool, together(end, end, end))) == [False, False, True]
    with reading(engine) as connection:
        assert [one.what for one in audit.entries(connection)] == ["experiment.start", "experiment.end"]


def test_of_several_services_one_looks_and_the_next_one_when_it_is_due(engine: Engine) -> None:
    number, minute = started_by(engine, "anne").id, timedelta(minutes=1)

    def look() -> bool:
        with writing(engine) as connection:
            return experiments.claim_look(connection, number, at=NOW + minute, last_before=NOW)

    assert sorted(map(bool, together(look, look, look))) == [False, False, True]
    with writing(engine) as connection:
        later = NOW + 2 * minute
        assert experiments.claim_look(connection, number, at=later, last_before=NOW + minute)
        assert not experiments.claim_look(connection, number, at=later, last_before=NOW + minute)


def test_that_it_ended_is_noticed_once(engine: Engine) -> None:
    number = started_by(engine, "anne").id
    with writing(engine) as connection:
        assert not experiments.claim_notice(connection, number)
        experiments.end(connection, number, outcome=Outcome.STOPPED, reason="x", who="y", at=NOW)
        assert experiments.claim_notice(connection, number)
        assert not experiments.claim_notice(connection, number)

"""A challenger beside the champion: who answers, what is recorded, and that no request fails because of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.service.conftest import Service, Starter, answering_wrongly, change_table, damaged, replace_file
from tests.service.processes import wait_for

from aisle.catalog import Prediction, Product
from aisle.errors import InputError
from aisle.experiments import run
from aisle.experiments.assignment import arm_of
from aisle.experiments.judge import Rules
from aisle.model.bundle import MODEL_FILE, Bundle
from aisle.model.predictor import Predictor
from aisle.registry.bundles import BundleStore
from aisle.service import aside, experiments
from aisle.service.aside import ChallengerFailed
from aisle.settings import Settings
from aisle.store import audit
from aisle.store.engine import reading
from aisle.store.experiments import Arm, Experiment, Outcome
from aisle.store.schema import predictions, shadow_predictions
from aisle.store.users import Role

TITLES = ["Piscine ronde", "Livre ancien relié", "Coussin décoratif 40x40", "Jeu de société", "Console de jeux"]


@dataclass
class Trial:
    """A service, and the store and database that it shares with whoever experiments."""

    service: Service
    store: BundleStore
    settings: Settings

    def start(self, kind: str, challenger: Bundle, **more: Any) -> Experiment:
        """An experiment that the service takes part in by the time that this returns."""
        begun = run.start(self.settings, kind, challenger.version, who="test", **more)
        wait_for(lambda: (self.shown() or {}).get("id") == begun.id)
        return begun

    def now(self, experiment: Experiment) -> Experiment:
        return run.get(self.settings, experiment.id)

    def shown(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.service.get("/model").json()["experiment"]
        return found

    def ask(self, title: str = "Piscine ronde", name: str = "shop", **fields: Any) -> dict[str, Any]:
        answer = self.service.post("/predict", name=name, json={"designation": title, **fields})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def rows(self, table: Any) -> list[Any]:
        self.service.client.app.state.parts.recorder.flush()  # type: ignore[attr-defined]
        with reading(self.service.engine) as connection:
            return list(connection.execute(select(table)).mappings())

    def wait_for_shadows(self, count: int) -> None:
        wait_for(lambda: len(self.rows(shadow_predictions)) == count)

    def metric(self, line: str) -> float:
        lines = self.service.client.get("/metrics").text.splitlines()
        return sum(float(one.rpartition(" ")[2]) for one in lines if one.startswith(line))


@pytest.fixture
def trial(start_service: Starter, store: BundleStore, tmp_path: Path) -> Iterator[Trial]:
    with trial_of(start_service, store, f"sqlite:///{tmp_path / 'aisle.db'}") as trial:
        yield trial


@contextlib.contextmanager
def trial_of(start_service: Starter, store: BundleStore, url: str, **more: Any) -> Iterator[Trial]:
    service = start_service(lambda: store.find("champion"), url, models_path=store.root, **more)
    trial = Trial(service, store, Settings(database_url=url, models_path=store.root))
    yield trial
    with contextlib.suppress(Exception):  # services of a module run on: this one is to do nothing more
        run.stop(trial.settings, reason="the test is over", who="test")
        wait_for(lambda: trial.shown() is None)


def made(store: BundleStore, bundle: Bundle, folder: Path, harm: Callable[[Path], object]) -> Bundle:
    """A bundle of the store that is `bundle` with something done to it."""
    shutil.copytree(bundle.path, folder)
    harm(folder)
    harmed = Bundle.load(folder)
    store.add(harmed)
    return harmed


def calling_each_type_by_another_name(folder: Path) -> None:
    """Harm a bundle so that nothing of it shows until people say what was right: each answer is wrong."""
    change_table(folder, MODEL_FILE, lambda model: model.update(codes=model["codes"][1:] + model["codes"][:1]))


# Shadow


def test_a_shadow_answers_nobody_and_is_recorded_beside_the_answer(
    trial: Trial, bundle: Bundle, other_bundle: Bundle, photo: bytes
) -> None:
    begun = trial.start("shadow", other_bundle)
    answers = [trial.ask(title) for title in TITLES]
    with_image = trial.service.post("/predict", data={"designation": "Piscine"}, files={"image": photo}).json()
    assert {answer["model"] for answer in (*answers, with_image)} == {bundle.version}
    trial.wait_for_shadows(len(TITLES) + 1)
    said = {row["prediction_id"]: row for row in trial.rows(shadow_predictions)}
    with Predictor(other_bundle, threads=1) as other:
        expected = other.predict([Product(title) for title in TITLES])
    for answer, one in zip(answers, expected, strict=True):
        row = said[answer["prediction_id"]]
        assert isinstance(one, Prediction)
        assert (row["experiment_id"], row["predicted"], row["error"]) == (begun.id, one.type.code, None)
        assert row["confidence"] == pytest.approx(one.confidence, abs=1e-6)
        assert row["agrees"] == int(answer["predicted"] == one.type.code)
        assert row["seconds"] > 0
    assert run.findings(trial.settings, begun).seen == len(TITLES) + 1
    shown = trial.metric('aisle_shadow_predictions_total{outcome="computed"}')
    assert shown == trial.metric("aisle_shadow_agreement_total{")


@pytest.mark.slow
def test_a_shadow_of_a_share_is_shown_the_same_products_always(trial: Trial, other_bundle: Bundle) -> None:
    begun = trial.start("shadow", other_bundle, share=0.5)
    keys = [f"key {number}" for number in range(20)]
    wanted = {key for key in keys if arm_of(begun, key) is Arm.CHALLENGER}
    assert 0 < len(wanted) < 20
    count = 0
    for key in 2 * keys:
        trial.ask(product_identifier=key)
        count += key in wanted
        trial.wait_for_shadows(count)  # a shadow that has too much to do passes some over
    shown = {row["prediction_id"] for row in trial.rows(shadow_predictions)}
    assert {row["product_key"] for row in trial.rows(predictions) if row["id"] in shown} == wanted


@pytest.mark.slow
def test_types_that_one_of_the_two_does_not_know_say_nothing_about_agreement(
    trial: Trial, bundle: Bundle, tmp_path: Path
) -> None:
    def with_types_of_its_own(folder: Path) -> None:
        new = {code: f"new {code}" for code in json.loads((folder / MODEL_FILE).read_text())["codes"]}
        change_table(folder, MODEL_FILE, lambda model: model.update(codes=list(new.values())))
        table = "".join(f"{code},{code}\n" for code in new.values())
        replace_file(folder, "product_types.csv", f"prdtypecode,label\n{table}".encode())

    begun = trial.start("shadow", made(trial.store, bundle, tmp_path / "new", with_types_of_its_own))
    for number in range(12):
        trial.ask(f"Piscine {number}")
        trial.wait_for_shadows(number + 1)
    assert {row["agrees"] for row in trial.rows(shadow_predictions)} == {None}
    found = run.findings(trial.settings, begun)
    assert (found.seen, found.agreement, found.worse_in) == (12, None, None)


@pytest.mark.slow
def test_a_shadow_that_calls_the_types_by_their_new_codes_agrees(
    trial: Trial, bundle: Bundle, tmp_path: Path
) -> None:
    def renumbered(folder: Path) -> None:
        codes = json.loads((folder / MODEL_FILE).read_text())["codes"]
        change_table(folder, MODEL_FILE, lambda model: model.update(codes=[f"new {code}" for code in codes]))
        table = "".join(f"new {code},{code}\n" for code in codes)
        changes = "".join(f"{code},new {code}\n" for code in codes)
        replace_file(folder, "product_types.csv", f"prdtypecode,label\n{table}".encode())
        replace_file(folder, "product_type_changes.csv", f"prdtypecode,becomes\n{changes}".encode())

    trial.start("shadow", made(trial.store, bundle, tmp_path / "new", renumbered))
    for number in range(6):
        trial.ask(f"Piscine {number}")
        trial.wait_for_shadows(number + 1)
    assert {row["agrees"] for row in trial.rows(shadow_predictions)} == {1}


def test_a_bad_shadow_is_stopped_by_itself_and_the_champion_goes_on(
    trial: Trial, bundle: Bundle, tmp_path: Path
) -> None:
    bad = made(trial.store, bundle, tmp_path / "bad", calling_each_type_by_another_name)
    begun = trial.start("shadow", bad)
    number = 0
    while trial.now(begun).outcome is None:
        assert trial.ask(f"{TITLES[number % 5]} {number}")["model"] == bundle.version
        number += 1
    ended = trial.now(begun)
    assert (ended.outcome, ended.reason and ended.reason.split(":")[0]) == (Outcome.WORSE, "agreement")
    assert ended.findings
    assert ended.findings["criteria"]["agreement"]["worse"] >= 9
    wait_for(lambda: trial.shown() is None)
    assert trial.metric('aisle_experiments_stopped_total{reason="agreement"}') == 1
    assert trial.metric(f'aisle_experiment_running{{challenger="{bad.version}"') == 0
    with reading(trial.service.engine) as connection:
        started, over = [one for one in audit.entries(connection) if one.what.startswith("experiment")]
    assert (started.what, started.who, over.what) == ("experiment.start", "test", "experiment.end")
    assert over.who.startswith("service:")
    assert over.after
    assert over.after["outcome"] == "worse"


def test_under_load_the_shadow_is_dropped_first(trial: Trial, other_bundle: Bundle) -> None:
    trial.start("shadow", other_bundle)
    [child] = children()
    os.kill(child, signal.SIGSTOP)
    try:
        for number in range(20):
            trial.ask(product_id=number)
    finally:
        os.kill(child, signal.SIGCONT)
    assert trial.metric('aisle_shadow_predictions_total{outcome="dropped"}') >= 20 - 9


# Canary and A/B


def test_a_canary_answers_for_its_share_and_always_for_the_same_products(
    trial: Trial, bundle: Bundle, other_bundle: Bundle
) -> None:
    begun = trial.start("canary", other_bundle, share=0.5)
    keys: list[dict[str, Any]] = [{"product_identifier": "a"}, {"product_id": 7}, {"imageid": 9}, {}]
    products: list[dict[str, Any]] = [
        {**key, "title": f"{title} {number}"} for number in range(4) for key in keys for title in TITLES
    ]
    first = [trial.ask(**one)["model"] for one in products]
    assert set(first) == {bundle.version, other_bundle.version}
    assert [trial.ask(**one)["model"] for one in products] == first
    by_key = {(row["product_key"], row["arm"]) for row in trial.rows(predictions) if row["product_key"]}
    assert len(by_key) == 3  # whatever the title
    for row in trial.rows(predictions):
        expected = {"champion": bundle.version, "challenger": other_bundle.version}[row["arm"]]
        assert (row["experiment_id"], row["model_version"]) == (begun.id, expected)
        assert 0 < row["seconds"] < 60
    found = run.findings(trial.settings, begun)
    assert found.champion.answers + found.challenger.answers == 2 * len(products)
    assert found.challenger.failed == 0
    assert trial.metric('aisle_arm_predictions_total{arm="challenger",outcome="ok"}') >= found.challenger.answers


def test_when_the_share_grows_nobody_goes_back(trial: Trial, other_bundle: Bundle) -> None:
    trial.start("canary", other_bundle, share=0.2)
    before = {number for number in range(40) if trial.ask(product_id=number)["model"] == other_bundle.version}
    run.set_share(trial.settings, 0.6, who="test")
    wait_for(lambda: (trial.shown() or {})["share"] == 0.6)
    after = {number for number in range(40) if trial.ask(product_id=number)["model"] == other_bundle.version}
    assert before < after
    assert trial.metric("aisle_experiment_share") == 0.6


def test_an_ab_test_by_user_gives_a_user_the_same_model_for_every_product(
    trial: Trial, bundle: Bundle, other_bundle: Bundle
) -> None:
    trial.start("ab", other_bundle, rules=Rules(unit="user"))
    models = {
        name: {trial.ask(title, name=name)["model"] for title in TITLES}
        for name in (f"user {number}" for number in range(12))
    }
    assert {len(one) for one in models.values()} == {1}
    assert set.union(*models.values()) == {bundle.version, other_bundle.version}


def test_stopped_by_hand_everything_is_the_champions_again(
    trial: Trial, bundle: Bundle, other_bundle: Bundle
) -> None:
    begun = trial.start("canary", other_bundle, share=0.9)
    assert other_bundle.version in {trial.ask(product_id=number)["model"] for number in range(10)}
    by_hand = trial.metric('aisle_experiments_stopped_total{reason="by hand"}')
    run.stop(trial.settings, begun, reason="lunch", who="test")
    wait_for(lambda: trial.shown() is None)
    assert {trial.ask(product_id=number)["model"] for number in range(10)} == {bundle.version}
    wait_for(lambda: trial.metric('aisle_experiments_stopped_total{reason="by hand"}') == by_hand + 1)
    assert {row["experiment_id"] for row in trial.rows(predictions)[-10:]} == {None}
    assert not children()


def test_a_bad_canary_is_stopped_by_what_people_say_of_it(trial: Trial, bundle: Bundle, tmp_path: Path) -> None:
    bad = made(trial.store, bundle, tmp_path / "bad", calling_each_type_by_another_name)
    begun = trial.start("canary", bad, share=0.5)
    with Predictor(bundle, threads=1) as right:
        number = 0
        while trial.now(begun).outcome is None:
            title = f"{TITLES[number % 5]} {number}"
            [truth] = right.predict([Product(title)])
            assert isinstance(truth, Prediction)
            answer = trial.ask(title)
            form = {"prediction_id": answer["prediction_id"], "type": truth.type.code}
            assert trial.service.post("/feedback", Role.ADMIN, json=form).status_code == 201
            number += 1
    ended = trial.now(begun)
    assert (ended.outcome, ended.reason and ended.reason.split(":")[0]) == (Outcome.WORSE, "accuracy")
    wait_for(lambda: trial.shown() is None)
    assert {trial.ask(product_id=number)["model"] for number in range(10)} == {bundle.version}


@pytest.mark.slow
def test_feedback_may_name_a_type_that_only_the_challenger_knows(
    trial: Trial, bundle: Bundle, tmp_path: Path
) -> None:
    def with_another_type(folder: Path) -> None:
        table = (folder / "product_types.csv").read_text()
        replace_file(folder, "product_types.csv", f"{table}9999,Trottinettes\n".encode())

    def correct() -> Any:
        form = {"prediction_id": answer["prediction_id"], "type": "9999"}
        return trial.service.post("/feedback", Role.ADMIN, json=form)

    answer = trial.ask()
    assert correct().status_code == 422
    trial.start("shadow", made(trial.store, bundle, tmp_path / "more", with_another_type))
    assert correct().json()["label"] == "Trottinettes"


# Challengers that break


def children() -> list[int]:
    """The processes of challengers that this process started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_text().split("\0")
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if aside.__name__ in words and int(parent) == os.getpid():
                found.append(int(folder.name))
    return found


@pytest.mark.parametrize("harm", [damaged, answering_wrongly, shutil.rmtree])
def test_a_challenger_that_cannot_serve_ends_its_experiment(
    trial: Trial, bundle: Bundle, other_bundle: Bundle, harm: Callable[[Path], object]
) -> None:
    """Whoever starts it makes sure: here the bundle breaks between the start and the service."""
    with contextlib.ExitStack() as stack:
        folder = trial.store.root / other_bundle.version
        stack.callback(lambda: trial.store.add(other_bundle))
        stack.callback(lambda: shutil.rmtree(folder, ignore_errors=True))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(run, "checked", lambda path: harm(path) or other_bundle)
            begun = run.start(trial.settings, "canary", other_bundle.version, who="test", share=0.9)
        wait_for(lambda: trial.now(begun).outcome is not None)
        assert trial.now(begun).outcome is Outcome.WORSE
        assert "cannot serve" in (trial.now(begun).reason or "")
    assert {trial.ask(product_id=number)["model"] for number in range(5)} == {bundle.version}
    assert trial.metric('aisle_experiments_stopped_total{reason="errors"}') >= 1


def test_where_the_challenger_dies_the_champion_answers_and_it_comes_back(
    trial: Trial, bundle: Bundle, other_bundle: Bundle
) -> None:
    begun = trial.start("canary", other_bundle, share=0.5)
    its = next(number for number in range(50) if trial.ask(product_id=number)["model"] == other_bundle.version)
    [child] = children()
    os.kill(child, signal.SIGKILL)
    assert trial.ask(product_id=its)["model"] == bundle.version
    wait_for(lambda: trial.ask(product_id=its)["model"] == other_bundle.version)
    assert trial.now(begun).outcome is None
    assert run.findings(trial.settings, begun).challenger.failed > 0
    assert trial.metric('aisle_arm_predictions_total{arm="challenger",outcome="error"}') > 0


def test_a_challenger_that_hangs_costs_nobody_an_answer_and_is_killed(
    start_service: Starter, store: BundleStore, bundle: Bundle, other_bundle: Bundle, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'aisle.db'}"
    with trial_of(start_service, store, url, predict_timeout_seconds=2) as trial:
        trial.start("canary", other_bundle, share=0.9)
        [child] = children()
        os.kill(child, signal.SIGSTOP)
        answers = [trial.ask(product_id=number) for number in range(5)]
        assert bundle.version in {answer["model"] for answer in answers}
        wait_for(lambda: not Path(f"/proc/{child}").exists())


def test_a_challenger_that_keeps_failing_is_stopped(trial: Trial, bundle: Bundle, other_bundle: Bundle) -> None:
    begun = trial.start("canary", other_bundle, share=0.9)
    number = 0
    while trial.now(begun).outcome is None:
        for child in children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        assert trial.ask(f"Piscine {number}", product_id=number)
        number += 1
    ended = trial.now(begun)
    assert (ended.outcome, ended.reason and ended.reason.split(":")[0]) == (Outcome.WORSE, "errors")


class Breaking:
    """A model that breaks at one product: the promise is about its neighbours."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(self, products: Sequence[Product]) -> list[Any]:
        if any(product.title == "poison" for product in products):
            raise RuntimeError("broken")
        return self._predictor.predict(products)


def test_a_product_that_breaks_a_challenger_does_not_break_its_neighbours(predictor: Predictor) -> None:
    answers = aside._answers(Breaking(predictor), [Product(title) for title in ("piscine", "poison", "", "livre")])
    expected = predictor.predict([Product("piscine"), Product("livre")])
    assert answers == [expected[0], "RuntimeError: broken", None, expected[1]]


class Challenger:
    """Stands where a challenger's process stands, and says what the test wants: real ones cannot be told to."""

    def __init__(self, answer: Exception) -> None:
        self._answer = answer
        self.types: dict[str, Any] = {}

    def __call__(self, *_: object, **__: object) -> Challenger:
        return self

    async def start(self) -> None: ...

    def close(self) -> None: ...

    async def predict(self, products: Sequence[Product]) -> list[Any]:
        return [self._answer] * len(products)


@pytest.mark.parametrize("answer", [ChallengerFailed("broken"), InputError("it looks at images only")])
def test_the_champion_answers_what_the_challenger_cannot(
    trial: Trial, bundle: Bundle, other_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, answer: Exception
) -> None:
    monkeypatch.setattr(experiments, "Aside", Challenger(answer))
    begun = trial.start("canary", other_bundle, share=0.9)
    assert {trial.ask(product_id=number)["model"] for number in range(8)} == {bundle.version}
    assert {row["arm"] for row in trial.rows(predictions)} == {"champion", "challenger"}
    wait_for(lambda: run.findings(trial.settings, begun).challenger.failed > 0)


def test_a_mistake_of_the_client_is_told_whoever_was_asked(trial: Trial, other_bundle: Bundle) -> None:
    begun = trial.start("canary", other_bundle, share=0.9)
    for number in range(8):
        answer = trial.service.post("/predict", json={"designation": " ", "product_id": number})
        assert answer.status_code == 422
    assert run.findings(trial.settings, begun).challenger.failed == 0


# The champion, the database, and the others


@pytest.mark.slow
def test_another_champion_ends_the_experiment(trial: Trial, other_bundle: Bundle) -> None:
    begun = trial.start("shadow", other_bundle)
    trial.store.make_champion(other_bundle.version)
    wait_for(lambda: trial.now(begun).outcome is not None)
    assert trial.now(begun).outcome is Outcome.SUPERSEDED
    wait_for(lambda: trial.ask()["model"] == other_bundle.version)


def test_a_service_that_serves_another_model_takes_no_part(
    start_service: Starter, store: BundleStore, other_bundle: Bundle, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'aisle.db'}"
    pinned = start_service(lambda: store.root / other_bundle.version, url, models_path=store.root)
    trial = Trial(pinned, store, Settings(database_url=url, models_path=store.root))
    begun = run.start(trial.settings, "canary", other_bundle.version, who="test", share=0.9)
    wait_for(lambda: (trial.now(begun).findings or {}).get("verdict"))  # it looked, for the others
    assert trial.ask()["model"] == other_bundle.version
    assert {row["experiment_id"] for row in trial.rows(predictions)} == {None}
    assert trial.now(begun).outcome is None
    run.stop(trial.settings, begun, reason="the test is over", who="test")


def test_while_the_database_is_away_an_experiment_goes_on_as_it_was(
    trial: Trial, bundle: Bundle, other_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial.start("canary", other_bundle, share=0.5)
    client, headers = trial.service.client, trial.service.headers()
    database, away = tmp_path / "aisle.db", tmp_path / "away.db"
    database.rename(away)
    database.mkdir()  # whoever opens it fails
    try:
        trial.service.engine.dispose()
        wait_for(lambda: "experiments not followed" in capsys.readouterr().out)
        bodies = [{"designation": "Piscine", "product_id": number} for number in range(10)]
        answers = [client.post("/predict", json=body, headers=headers) for body in bodies]
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["model"] for answer in answers} == {bundle.version, other_bundle.version}
    finally:
        database.rmdir()
        away.rename(database)
    wait_for(lambda: len(trial.rows(predictions)) == 10)


@pytest.mark.slow
def test_two_services_look_in_turn_and_one_of_them_ends_it(
    start_service: Starter, store: BundleStore, bundle: Bundle, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'aisle.db'}"
    bad = made(store, bundle, tmp_path / "bad", calling_each_type_by_another_name)
    with trial_of(start_service, store, url) as first, trial_of(start_service, store, url) as second:
        begun = first.start("shadow", bad)
        wait_for(lambda: second.shown() is not None)
        number = 0
        while first.now(begun).outcome is None:
            for trial in (first, second):
                trial.ask(f"Piscine {number}")
                number += 1
        wait_for(lambda: first.shown() is second.shown() is None)
        with reading(first.service.engine) as connection:
            ends = [one for one in audit.entries(connection) if one.what == "experiment.end"]
        assert len(ends) == 1


@pytest.mark.slow
def test_a_loop_that_ends_takes_the_challenger_with_it(
    start_service: Starter, store: BundleStore, other_bundle: Bundle, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'aisle.db'}"
    service = start_service(lambda: store.find("champion"), url, models_path=store.root)
    trial = Trial(service, store, Settings(database_url=url, models_path=store.root))
    begun = trial.start("shadow", other_bundle)
    assert children()
    part = service.client.app.state.parts.experiments  # type: ignore[attr-defined]
    service.client.portal.call(part.stop)  # type: ignore[union-attr]
    assert run.get(trial.settings, begun.id).outcome is None  # others go on with it
    run.stop(trial.settings, begun, reason="the test is over", who="test")
    wait_for(lambda: not children())

"""A retraining goes from stage to stage, each once, whatever interrupts it, and every step can be taken back."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aisle.data.raw import IMAGES_ZIP, LABELS_FILE, TRAIN_FILE, read_products
from aisle.data.sample import write_sample
from aisle.data.validate import read_labelled
from aisle.errors import CheckFailed, InputError, ServiceMissing
from aisle.experiments import run as experiments
from aisle.loop import retrain as module
from aisle.loop.corrections import FOLDER, alone
from aisle.loop.retrain import MOST_FAILURES, Retrainings, Way, champions_recipe
from aisle.loop.triggers import NotDue
from aisle.loop.watch import run_due, watch
from aisle.monitoring.stages import LAST, textfile
from aisle.pipeline import train_bundle
from aisle.registry.bundles import BundleStore
from aisle.registry.gate import Criterion, Verdict
from aisle.settings import Settings
from aisle.store import audit, predictions, retrainings
from aisle.store import experiments as records
from aisle.store.engine import open_database, reading, writing
from aisle.store.experiments import Arm, Experiment, Shadowed
from aisle.store.predictions import Feedback, PredictionRecord
from aisle.store.retrainings import Cause, Retraining, Stage
from aisle.training.recipes import LstmVgg16, Recipe, light

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
PRODUCTS = 20


@dataclass
class Shop:
    """A shop in a folder, whose traffic is written straight into its database."""

    folder: Path
    settings: Settings

    @property
    def store(self) -> BundleStore:
        return BundleStore(self.settings.models_path)

    def retrainings(self, who: str = "anne") -> Retrainings:
        return Retrainings(self.settings, who=who)

    def way(self) -> Way:
        return Way(self.settings.data_path / "raw", "light")

    def correct(self, titles: list[str], code: str) -> None:
        """Predictions of these products, and a person who gives them a type."""
        self._serve([record(title) for title in titles])
        with writing(open_database(self.settings.database_url)) as connection:
            for title in titles:
                predictions.add_feedback(connection, Feedback(record(title).id, NOW, "paul", code))

    def show(self, experiment: Experiment, *, agreeing: float = 1.0) -> None:
        """The challenger of a shadow sees enough products, and says the same of so many of them."""
        shown = [record(f"shown {number}", experiment=experiment) for number in range(PRODUCTS)]
        self._serve(shown)
        with writing(open_database(self.settings.database_url)) as connection:
            records.add_shadowed(
                connection,
                [
                    Shadowed(
                        one.id, experiment.id, one.input_hash, "10", 0.9, number < agreeing * PRODUCTS, 0.01, 0.01
                    )
                    for number, one in enumerate(shown)
                ],
            )

    def answer(self, experiment: Experiment) -> None:
        """Both arms of a canary answer enough products."""
        for arm, version in ((Arm.CHAMPION, experiment.champion), (Arm.CHALLENGER, experiment.challenger)):
            self._serve(
                [
                    record(f"{arm} {number}", experiment=experiment, arm=arm, version=version)
                    for number in range(PRODUCTS)
                ]
            )

    def _serve(self, served: list[PredictionRecord]) -> None:
        with writing(open_database(self.settings.database_url)) as connection:
            predictions.add(connection, served)

    def trail(self) -> list[audit.Entry]:
        with reading(open_database(self.settings.database_url)) as connection:
            return audit.entries(connection)


def record(
    title: str, *, experiment: Experiment | None = None, arm: Arm = Arm.CHAMPION, version: str = "v1"
) -> PredictionRecord:
    import hashlib

    digest = hashlib.sha256(f"{title} {experiment and experiment.id}".encode()).hexdigest()
    return PredictionRecord(
        id=digest[:32], created_at=NOW, user_name="shop", input_hash=digest, designation=title, description="",
        image_hash=None, predicted="10", confidence=0.9, top=[], decision="accept", model_version=version,
        seconds=0.01, experiment_id=experiment.id if experiment else None, arm=arm.value if experiment else None,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_revision() -> Iterator[None]:
    """Commits made meanwhile change no bundle."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("aisle.training.train.code_revision", lambda: "of these tests")
        yield


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a shop with a champion, corrections, and a retraining that waits for products as shadow."""
    folder = tmp_path_factory.mktemp("begun")
    write_sample(folder / "data" / "raw", rows=3000, seed=0)
    (folder / "data" / "raw" / IMAGES_ZIP).unlink()
    shop = at(folder)
    train_bundle(light(), folder / "data" / "raw", shop.settings, who="anne")
    write_sample(folder / "others", rows=300, seed=7)
    others = read_products(folder / "others" / TRAIN_FILE).join(
        read_products(folder / "others" / LABELS_FILE, required=("key", "type_code")), on="key"
    )
    for (code,), products in others.filter(others["title"].is_not_null()).group_by("type_code"):
        shop.correct(products["title"].unique().to_list(), str(code))
    shop.retrainings().begin(Cause.HAND, reason="the new collection", way=shop.way())
    return folder


def at(folder: Path, **settings: Any) -> Shop:
    chosen = Settings(
        data_path=folder / "data",
        models_path=folder / "models",
        database_url=f"sqlite:///{folder}/data/aisle.db",
        retrain_products=PRODUCTS,
        retrain_least_labels=1,
        **settings,
    )
    return Shop(folder, chosen)


@pytest.fixture(scope="module")
def trained(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "shop"
    shutil.copytree(begun, folder)
    assert past_the_gate(at(folder)).stage is Stage.SHADOW
    return folder


@pytest.fixture
def shop(trained: Path, tmp_path: Path) -> Shop:
    """Of which a retraining waits for products as shadow."""
    shutil.copytree(trained, tmp_path / "shop")
    return at(tmp_path / "shop")


@pytest.fixture
def fresh(shop: Shop) -> Shop:
    """Of which a retraining is begun, and nothing done; its model was trained by an earlier one, which is quicker."""
    shop.retrainings().undo()
    shop.retrainings().begin(Cause.HAND, reason="once more", way=shop.way())
    return shop


def running(shop: Shop) -> Experiment:
    found = experiments.current(shop.settings)
    assert found is not None
    return found


def advanced(shop: Shop) -> Retraining:
    found = shop.retrainings().advance()
    assert found is not None
    return found


def past_the_gate(shop: Shop) -> Retraining:
    """On so few products the gate may not be sure: then a person is."""
    if (now := advanced(shop)).stage is Stage.REVIEW:
        shop.retrainings().approve()
        now = advanced(shop)
    return now


def to_the_end(shop: Shop) -> Retraining:
    shop.show(running(shop))
    assert advanced(shop).stage is Stage.CANARY
    shop.answer(running(shop))
    return advanced(shop)


def test_corrections_are_part_of_what_is_learnt_from(shop: Shop) -> None:
    base, catalogue = (read_labelled(shop.settings.data_path / name) for name in ("raw", f"{FOLDER}/catalogue"))
    now = shop.retrainings().active()
    assert now is not None
    assert len(catalogue) == len(base) + now.detail["collected"]["corrections"] > len(base)


@pytest.mark.slow
def test_with_nothing_corrected_there_is_nothing_new(tmp_path: Path, sample: Path) -> None:
    shutil.copytree(sample, tmp_path / "data" / "raw", ignore=shutil.ignore_patterns(IMAGES_ZIP))
    shop = at(tmp_path)
    train_bundle(light(), shop.way().base, shop.settings, who="anne")
    shop.retrainings().begin(Cause.HAND, reason="just so", way=shop.way())
    assert advanced(shop).stage is Stage.NOTHING_NEW
    assert len(shop.store.versions()) == 1


def test_while_there_are_too_few_products_it_waits(shop: Shop) -> None:
    assert advanced(shop).stage is Stage.SHADOW
    assert advanced(shop).updated_at == advanced(shop).updated_at


def test_it_becomes_champion_after_shadow_and_canary(shop: Shop) -> None:
    before = shop.store.serving().champion
    done = to_the_end(shop)
    assert done.stage is Stage.DONE
    assert done.ended_at is not None
    assert shop.store.serving().champion == done.detail["version"] != before
    assert (shop.settings.reports_path / done.detail["version"] / "changes.csv").is_file()
    assert LAST["success"] in textfile("changes", shop.settings).read_text()
    assert experiments.current(shop.settings) is None


def test_the_audit_trail_has_every_stage_and_who_began_it(shop: Shop) -> None:
    to_the_end(shop)
    moves = [one for one in shop.trail() if one.what == "retrain.stage"]
    stages = [one.after["stage"] for one in moves if one.after and one.after["stage"] != "review"]
    assert stages == ["collect", "version", "train", "gate", "shadow", "canary", "promote", "changes", "done"]
    assert {one.who for one in moves} == {"anne"}


def test_a_worse_shadow_ends_it_and_the_champion_stays(shop: Shop) -> None:
    before, experiment = shop.store.serving().champion, running(shop)
    with writing(open_database(shop.settings.database_url)) as connection:
        records.end(
            connection, experiment.id, outcome=records.Outcome.WORSE, reason="accuracy: worse", who="aisle",
            at=NOW, findings={},
        )  # fmt: skip
    ended = advanced(shop)
    assert ended.stage is Stage.STOPPED
    assert ended.detail["why"] == "shadow: accuracy: worse"
    assert shop.store.serving().champion == before


def test_a_shadow_that_answers_otherwise_waits_for_an_administrator_who_may_let_it_go_on(shop: Shop) -> None:
    shop.show(running(shop), agreeing=0.4)
    assert advanced(shop).stage is Stage.REVIEW
    assert advanced(shop).stage is Stage.REVIEW
    shop.retrainings().approve()
    assert advanced(shop).stage is Stage.CANARY
    assert running(shop).kind == "canary"


def test_an_administrator_may_say_no(shop: Shop) -> None:
    shop.show(running(shop), agreeing=0.4)
    advanced(shop)
    assert shop.retrainings().reject().stage is Stage.REFUSED
    assert experiments.current(shop.settings) is None
    with pytest.raises(CheckFailed, match="waits for an administrator"):
        shop.retrainings().approve()


def test_a_borderline_verdict_of_the_gate_waits_for_an_administrator(
    fresh: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    criterion = Criterion("weighted F1", False, "-0.20 points", close=True)
    monkeypatch.setattr(
        module, "judge_challenger", lambda bundle, *_, **__: Verdict(bundle.version, "v1", 9, (criterion,))
    )
    waiting = advanced(fresh)
    assert (waiting.stage, waiting.detail["why"]) == (Stage.REVIEW, "weighted F1: -0.20 points")
    assert fresh.retrainings().approve().stage is Stage.SHADOW
    advanced(fresh)
    done = to_the_end(fresh)
    assert done.stage is Stage.DONE
    [promoted] = [
        one for one in fresh.trail() if one.what == "model.promote" and one.subject == done.detail["version"]
    ]
    assert promoted.after
    assert promoted.after["forced"] == "weighted F1: -0.20 points (approved by anne)"


def test_what_the_gate_refuses_goes_no_further(fresh: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    criterion = Criterion("weighted F1", False, "-9.00 points")
    monkeypatch.setattr(
        module, "judge_challenger", lambda bundle, *_, **__: Verdict(bundle.version, "v1", 9, (criterion,))
    )
    assert advanced(fresh).stage is Stage.REFUSED
    assert experiments.current(fresh.settings) is None
    assert fresh.retrainings().active() is None


@pytest.mark.slow
def test_with_nothing_new_it_ends_before_the_gate(shop: Shop) -> None:
    to_the_end(shop)
    shop.retrainings().begin(Cause.HAND, reason="again", way=shop.way())
    assert advanced(shop).stage is Stage.NOTHING_NEW


@pytest.mark.slow
def test_another_champion_meanwhile_is_what_the_gate_compares_with_next(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def judge(bundle: Any, *_: Any, **__: Any) -> Verdict:
        asked.append(shop.store.serving().champion)
        return Verdict(bundle.version, None, 9, (Criterion("weighted F1", False, "worse than that one"),))

    monkeypatch.setattr(module, "judge_challenger", judge)
    other = shop.folder / "other"
    trained = train_bundle(replace(light(), seed=5), shop.way().base, shop.settings, who="anne", out=other)
    shop.store.add(trained.bundle)
    shop.store.make_champion(trained.bundle.version)
    assert advanced(shop).stage is Stage.REFUSED
    assert asked == [trained.bundle.version]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["_collect", "_version", "_train", "_gate", "_shadow"])
def test_killed_in_any_stage_it_goes_on_there(fresh: Shop, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work = getattr(Retrainings, stage)

    def killed(*arguments: Any) -> Any:
        work(*arguments)
        raise KeyboardInterrupt  # its work is done, and where it is was not written down

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Retrainings, stage, killed)
        past_the_gate(fresh)
    now = past_the_gate(fresh)
    assert now.stage is Stage.SHADOW
    assert "failures" not in now.detail or now.detail["failures"] == 0
    assert len(experiments.latest(fresh.settings)) <= 2  # that of the retraining before, and at most one of this one


def test_killed_after_it_became_champion_it_goes_on_there(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    promote = Retrainings._promote

    def killed(*arguments: Any) -> Any:
        promote(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Retrainings, "_promote", killed)
        to_the_end(shop)
    assert advanced(shop).stage is Stage.DONE
    assert len([one for one in shop.trail() if one.what == "model.promote"]) == 2  # the first champion, and this one


def test_a_stage_that_fails_again_and_again_is_given_up(fresh: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "collect", _raising(InputError("is no catalogue")))
    for _ in range(MOST_FAILURES):
        with pytest.raises(InputError):
            fresh.retrainings().advance()
    with reading(open_database(fresh.settings.database_url)) as connection:
        [given_up] = retrainings.latest(connection)
    assert given_up.stage is Stage.FAILED
    assert "no catalogue" in given_up.detail["error"]
    assert fresh.retrainings().active() is None


def test_what_the_champion_was_trained_with_is_chosen_again(shop: Shop) -> None:
    assert champions_recipe(shop.settings) == ("light", {})


def test_what_was_chosen_of_the_recipe_reaches_the_training(fresh: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh.retrainings().undo()
    way = replace(fresh.way(), recipe="lstm-vgg16", choices={"weights": "none", "fine_tune": 3})
    fresh.retrainings().begin(Cause.HAND, reason="as before", way=way)
    trained: list[Recipe] = []

    def given_up(recipe: Recipe, *_: Any, **__: Any) -> Any:
        trained.append(recipe)
        raise InputError("not trained here")

    monkeypatch.setattr(module, "train_bundle", given_up)
    with pytest.raises(InputError):
        fresh.retrainings().advance()
    [chosen] = trained
    assert isinstance(chosen, LstmVgg16)
    assert (chosen.image.weights, chosen.image.fine_tuning.most) == ("none", 3)


def test_an_outside_service_that_is_away_is_no_failure(fresh: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(module, "version_by_dvc", _raising(ServiceMissing("no remote")))
        for _ in range(MOST_FAILURES + 1):
            with pytest.raises(ServiceMissing):
                fresh.retrainings().advance()
    now = fresh.retrainings().active()
    assert now is not None
    assert now.stage is Stage.VERSION


def _raising(error: Exception) -> Callable[..., Any]:
    def work(*_: Any, **__: Any) -> Any:
        raise error

    return work


def test_two_processes_do_not_work_on_one(shop: Shop) -> None:
    with alone(shop.retrainings().folder), pytest.raises(CheckFailed, match="another process"):
        shop.retrainings().advance()


def test_undone_as_shadow_nothing_is_left_of_it(shop: Shop) -> None:
    before = shop.store.serving().champion
    assert shop.retrainings().undo().stage is Stage.UNDONE
    assert experiments.current(shop.settings) is None
    assert shop.retrainings().active() is None
    assert shop.store.serving().champion == before


def test_undone_as_champion_the_one_before_serves_again(shop: Shop) -> None:
    before = shop.store.serving().champion
    to_the_end(shop)
    assert shop.retrainings().undo().stage is Stage.UNDONE
    assert shop.store.serving().champion == before
    with pytest.raises(CheckFailed, match="no retraining to undo"):
        shop.retrainings().undo()


@pytest.mark.slow
def test_what_was_undone_does_not_come_back_by_itself(shop: Shop) -> None:
    to_the_end(shop)
    shop.retrainings().undo()
    shop.retrainings().begin(Cause.HAND, reason="again", way=shop.way())
    assert advanced(shop).stage is Stage.NOTHING_NEW


@pytest.mark.slow
def test_a_round_begins_what_is_due_and_answers_who_asked(shop: Shop) -> None:
    shop.retrainings().undo()
    with writing(open_database(shop.settings.database_url)) as connection:
        retrainings.ask(connection, Cause.HAND, asked_by="paul", reason="the sales", at=NOW)
    found = run_due(shop.retrainings("aisle"), shop.way)
    assert isinstance(found, Retraining)
    assert (found.cause, found.detail["reason"]) == (Cause.HAND, "the sales")
    with reading(open_database(shop.settings.database_url)) as connection:
        assert not retrainings.requests(connection)


def test_a_round_with_nothing_due_says_so(shop: Shop) -> None:
    shop.retrainings().undo()
    later = NOW + timedelta(hours=1)
    assert isinstance(run_due(shop.retrainings(), shop.way, clock=lambda: later), NotDue)


def test_the_watch_outlives_a_round_that_fails(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, rounds = threading.Event(), []

    def fails(*_: Any, **__: Any) -> Any:
        rounds.append(1)
        if len(rounds) == 3:
            stop.set()
        raise [InputError("is no catalogue"), ZeroDivisionError("oh"), ServiceMissing("away")][len(rounds) - 1]

    monkeypatch.setattr("aisle.loop.watch.run_due", fails)
    watch(shop.retrainings(), shop.way, stop=stop, seconds=0)
    assert len(rounds) == 3

"""What is said of an experiment, from what the database has about it."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import Engine
from tests.experiments.conftest import Trial, started

from aisle.catalog import TypeChanges
from aisle.errors import UsageError
from aisle.experiments.judge import Findings, Rules, Verdict
from aisle.store.experiments import Arm, Kind


@pytest.fixture
def shadow(engine: Engine) -> Trial:
    return started(engine, Kind.SHADOW, share=1.0, products=20)


@pytest.fixture
def canary(engine: Engine) -> Trial:
    return started(engine, Kind.CANARY, products=20)


def numbers(found: Findings, name: str) -> tuple[int, int]:
    [one] = [one for one in found.criteria if one.name == name]
    return one.worse, one.better


def test_an_experiment_that_saw_nothing_goes_on(shadow: Trial) -> None:
    found = shadow.findings()
    assert (found.verdict, found.seen, found.agreement) == (Verdict.GO_ON, 0, None)
    json.dumps(found.as_dict())


def test_a_shadow_that_agrees_has_seen_enough_after_so_many_products(shadow: Trial) -> None:
    for _ in range(19):
        shadow.predicted(shadow="10")
    assert shadow.findings().verdict is Verdict.GO_ON
    shadow.predicted(shadow="20")
    found = shadow.findings()
    assert (found.verdict, found.seen, found.agreement) == (Verdict.ENOUGH, 20, 0.95)
    assert found.has_enough
    assert found.as_dict()["agreement"]["low"] < 0.95 < found.as_dict()["agreement"]["high"]


def test_a_shadow_that_says_something_else_of_most_products_is_worse(shadow: Trial) -> None:
    for _ in range(9):
        shadow.predicted(said="10", shadow="20")
    found = shadow.findings()
    assert (found.verdict, found.worse_in) == (Verdict.WORSE, "agreement")
    assert found.reason.startswith("agreement: worse in 9 of 9")


def test_one_product_asked_about_again_and_again_decides_nothing(shadow: Trial) -> None:
    for _ in range(30):
        shadow.predicted(product="the same", shadow="20", right="10")
        shadow.predicted(product="breaks it", shadow_error="RuntimeError")
    found = shadow.findings()
    assert found.seen == 2
    assert {name: numbers(found, name) for name in ("agreement", "accuracy", "errors")} == {
        "agreement": (1, 0),
        "accuracy": (1, 0),
        "errors": (1, 0),
    }
    assert found.verdict is Verdict.GO_ON


def test_what_both_say_decides_nothing_about_accuracy(shadow: Trial) -> None:
    shadow.predicted(said="10", shadow="10", right="10")
    shadow.predicted(said="10", shadow="10", right="20")
    shadow.predicted(said="10", shadow="20", right="10")
    shadow.predicted(said="10", shadow="20", right="20")
    shadow.predicted(said="10", shadow="20", right="30")
    shadow.predicted(said="10", shadow="20")
    found = shadow.findings()
    assert numbers(found, "accuracy") == (1, 1)
    assert (found.champion.labelled, found.champion.right) == (5, 2)
    assert (found.challenger.labelled, found.challenger.right) == (5, 2)


def test_a_shadow_that_is_wrong_where_the_champion_was_right_is_worse(shadow: Trial) -> None:
    for _ in range(9):
        shadow.predicted(said="10", shadow="10")
        shadow.predicted(said="10", shadow="20", right="10")
    assert shadow.findings().worse_in == "accuracy"


def test_the_last_word_on_a_product_counts_also_when_it_comes_late(shadow: Trial) -> None:
    asked = shadow.predicted(said="10", shadow="20", right="10")
    assert numbers(shadow.findings(), "accuracy") == (1, 0)
    shadow.corrected(asked, "20")
    shadow.corrected(asked, "20")
    assert numbers(shadow.findings(), "accuracy") == (0, 1)


def test_a_shadow_that_takes_twice_the_time_is_worse_and_one_that_takes_a_little_more_is_not(
    shadow: Trial,
) -> None:
    for _ in range(9):
        shadow.predicted(seconds=0.010, shadow="10", shadow_seconds=0.014)
    assert shadow.findings().worse_in is None
    for _ in range(90):
        shadow.predicted(seconds=0.010, shadow="10", shadow_seconds=0.021)
    assert shadow.findings().worse_in == "latency"


def test_a_shadow_that_fails_is_worse(shadow: Trial) -> None:
    for _ in range(9):
        shadow.predicted(shadow_error="RuntimeError: broken")
    found = shadow.findings()
    assert (found.worse_in, found.challenger.failed, found.agreement) == ("errors", 9, None)


def test_arms_are_compared_by_what_people_said_of_each(canary: Trial) -> None:
    for _ in range(12):
        canary.predicted(Arm.CHAMPION, "10", right="10")
        canary.predicted(Arm.CHALLENGER, "10", right="20")
    found = canary.findings()
    assert numbers(found, "accuracy") == (12, 0)
    assert found.worse_in == "accuracy"
    assert found.as_dict()["arms"]["champion"]["accuracy"]["value"] == 1
    assert found.as_dict()["arms"]["challenger"]["accuracy"]["value"] == 0


def test_labels_that_have_no_partner_yet_wait(canary: Trial) -> None:
    for _ in range(30):
        canary.predicted(Arm.CHALLENGER, "10", right="20")
    assert numbers(canary.findings(), "accuracy") == (0, 0)
    canary.predicted(Arm.CHAMPION, "10", right="10")
    assert numbers(canary.findings(), "accuracy") == (1, 0)


def test_the_same_product_in_both_arms_is_one_of_each(engine: Engine) -> None:
    """By user, as an A/B test may be."""
    test = started(engine, Kind.AB, unit="user")
    for _ in range(3):
        test.predicted(Arm.CHAMPION, "10", right="10", product="the same")
        test.predicted(Arm.CHALLENGER, "20", right="10", product="the same")
    assert numbers(test.findings(), "accuracy") == (1, 0)


def test_what_the_champion_answered_for_the_challenger_is_a_failure(canary: Trial) -> None:
    for _ in range(9):
        canary.predicted(Arm.CHALLENGER, "10", version="old", right="10")
        canary.predicted(Arm.CHAMPION, "10", right="10")
    found = canary.findings()
    assert (numbers(found, "errors"), found.worse_in) == ((9, 0), "errors")
    assert (found.challenger.failed, found.challenger.labelled, found.champion.labelled) == (9, 0, 9)


def test_failures_that_both_have_their_share_of_are_no_proof(engine: Engine) -> None:
    trial = started(engine, Kind.CANARY, share=0.9)
    for number in range(100):
        arm = Arm.CHALLENGER if number % 10 else Arm.CHAMPION
        trial.predicted(arm, version="old" if arm is Arm.CHALLENGER else "new")
    found = trial.findings()
    assert numbers(found, "errors") == (90, 10)
    assert found.worse_in is None


def test_latency_is_compared_with_the_request_just_before(canary: Trial) -> None:
    """The load of the hour makes both slow."""
    for load in (0.01, 1.0) * 10:
        canary.predicted(Arm.CHAMPION, seconds=load)
        canary.predicted(Arm.CHALLENGER, seconds=load * 1.4)
        canary.predicted(Arm.CHALLENGER, seconds=load * 99)
    assert numbers(canary.findings(), "latency") == (0, 20)
    for _ in range(90):
        canary.predicted(Arm.CHAMPION, seconds=0.01)
        canary.predicted(Arm.CHALLENGER, seconds=0.02)
    assert canary.findings().worse_in == "latency"


def test_a_challenger_that_is_right_where_the_champion_was_wrong_is_said_to_be_more_accurate(
    canary: Trial,
) -> None:
    for _ in range(20):
        canary.predicted(Arm.CHAMPION, "10", right="20")
        canary.predicted(Arm.CHALLENGER, "20", right="20")
    found = canary.findings()
    assert (found.is_more_accurate, found.verdict) == (True, Verdict.ENOUGH)


def test_predictions_of_another_experiment_do_not_count(shadow: Trial) -> None:
    shadow.predicted(shadow="20")
    shadow.end()
    second = started(shadow.engine, Kind.SHADOW)
    assert second.findings().seen == 0


def test_an_agreement_below_the_rule_is_not_enough_however_many_products_were_seen(engine: Engine) -> None:
    trial = started(engine, Kind.SHADOW, share=1.0, products=10, agreement=0.9)
    for number in range(10):
        trial.predicted(said="10", shadow="10" if number < 8 else "20")
    found = trial.findings()
    assert (found.verdict, found.agreement) == (Verdict.GO_ON, 0.8)


def test_without_a_rule_for_agreement_it_is_told_and_not_judged(engine: Engine) -> None:
    """As for a challenger with another table of types."""
    trial = started(engine, Kind.SHADOW, share=1.0, products=10, agreement=0.0)
    for _ in range(10):
        trial.predicted(said="10", shadow="20")
    found = trial.findings()
    assert (found.verdict, found.agreement) == (Verdict.ENOUGH, 0.0)
    assert found.as_dict()["agreement"]["value"] == 0.0


CHANGES = TypeChanges({"10": "11", "12": "11", "60": None})


@pytest.mark.parametrize("kind", [Kind.SHADOW, Kind.AB])
@pytest.mark.parametrize("word", ["10", "11", "12"])
def test_whoever_calls_a_type_by_its_old_or_new_name_says_the_same(engine: Engine, kind: Kind, word: str) -> None:
    """The champion says 10, as it was called; the challenger 11, which 10 and 12 have become."""
    trial = started(engine, kind, agreement=0.0)
    for _ in range(20):
        trial.predicted(said="10", shadow="11" if kind is Kind.SHADOW else None, right=word)
        if kind is Kind.AB:
            trial.predicted(Arm.CHALLENGER, said="11", right=word)
    found = trial.findings(CHANGES)
    assert (found.champion.right, found.challenger.right) == (20, 20)
    assert found.verdict is not Verdict.WORSE
    unmapped = trial.findings()
    assert (unmapped.champion.right, unmapped.challenger.right) != (20, 20)


@pytest.mark.parametrize("kind", [Kind.SHADOW, Kind.AB])
def test_a_word_on_a_type_that_fell_away_tells_nothing_of_either(engine: Engine, kind: Kind) -> None:
    trial = started(engine, kind)
    for _ in range(20):
        trial.predicted(said="60", shadow="20" if kind is Kind.SHADOW else None, right="60")
        trial.predicted(said="60", shadow="20" if kind is Kind.SHADOW else None, right="20")
    found = trial.findings(CHANGES)
    assert (found.champion.labelled, found.champion.right) == (20, 0)


@pytest.mark.parametrize(
    "rule",
    [{"alpha": 0}, {"alpha": 1}, {"products": 0}, {"agreement": 1}, {"agreement": -0.1}, {"slower": 0.5},
     {"unit": "image"}, {"alpha": float("nan")}],
)  # fmt: skip
def test_a_rule_that_cannot_be_kept_is_refused(rule: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(rule))):
        Rules(**rule)  # type: ignore[arg-type]

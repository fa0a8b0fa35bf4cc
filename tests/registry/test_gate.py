"""The gate: who is let pass, who is not, and for which reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from aisle.errors import InputError
from aisle.model.bundle import Bundle
from aisle.registry.gate import Limits, Verdict, judge
from aisle.training.behaviour import Behaviour
from aisle.training.evaluate import Evaluation

CODES = ("10", "40", "50")
HOLDS = [Behaviour("in capitals", 1.0, 0.98, 200)]
TRUE = tuple(CODES[row % 3] for row in range(600))


@pytest.fixture
def evaluation(bundle: Bundle) -> Evaluation:
    """A champion that is right about nine products of ten."""
    figures = {"calibration_error": 0.02, "latency_ms": {"p50": 5.0, "p95": 9.0, "p99": 12.0}}
    keys = [str(row) for row in range(len(TRUE))]
    probabilities = np.zeros((len(TRUE), len(CODES)))
    targets = np.array([CODES.index(code) for code in TRUE])
    made = Evaluation(figures, "champion", probabilities, targets, TRUE, CODES, bundle.types(), keys, [])
    return wrong_about(made, range(0, len(TRUE), 10))


def wrong_about(evaluation: Evaluation, rows: Sequence[int], version: str = "champion") -> Evaluation:
    wrong = np.isin(np.arange(len(TRUE)), list(rows))
    guesses = np.where(wrong, (evaluation.targets + 1) % len(CODES), evaluation.targets)
    return replace(evaluation, probabilities=np.eye(len(CODES))[guesses], model_version=version)


def failed(verdict: Verdict) -> list[str]:
    return [one.name for one in verdict.failed]


def test_a_model_passes_that_is_as_good(evaluation: Evaluation) -> None:
    verdict = judge(replace(evaluation, model_version="challenger"), evaluation, HOLDS)
    assert verdict.passed
    assert (verdict.challenger, verdict.champion, verdict.rows) == ("challenger", "champion", 600)


def test_a_model_passes_that_is_better(evaluation: Evaluation) -> None:
    assert judge(wrong_about(evaluation, range(0, 600, 20)), evaluation, HOLDS).passed


def test_a_model_that_is_worse_is_refused_for_its_f1(evaluation: Evaluation) -> None:
    assert "weighted F1" in failed(judge(wrong_about(evaluation, range(0, 600, 7)), evaluation, HOLDS))


def test_what_is_too_uncertain_is_not_taken_for_as_good(evaluation: Evaluation) -> None:
    """As many mistakes, all of them others: with so few products that may hide a model that is worse."""
    other = wrong_about(evaluation, range(5, 600, 10))
    assert failed(judge(other, evaluation, HOLDS)) == ["weighted F1"]
    assert judge(other, evaluation, HOLDS, Limits(worse=0.05)).passed


def test_a_type_that_falls_is_refused_though_the_others_rise(evaluation: Evaluation) -> None:
    of_first = [row for row in range(600) if TRUE[row] == CODES[0]]
    verdict = judge(wrong_about(evaluation, of_first[::3]), evaluation, HOLDS, Limits(worse=1))
    assert failed(verdict) == ["types"]
    assert "10 -" in verdict.failed[0].finding


def test_a_fall_that_may_be_chance_is_told_and_let_pass(evaluation: Evaluation) -> None:
    of_first = [row for row in range(600) if TRUE[row] == CODES[0]]
    few, fewer = wrong_about(evaluation, of_first[:12]), wrong_about(evaluation, of_first[20:30])
    verdict = judge(few, fewer, HOLDS, Limits(worse=1, type_fall=0.001))
    assert [one.passed for one in verdict.criteria if one.name == "types"] == [True]
    assert "by chance, perhaps" in verdict.criteria[1].finding


@pytest.mark.parametrize(
    ("figures", "name"),
    [({"calibration_error": 0.06}, "calibration"), ({"latency_ms": {"p95": 251.0}}, "latency")],
)
def test_a_budget_that_is_overdrawn_decides(evaluation: Evaluation, figures: dict[str, object], name: str) -> None:
    verdict = judge(replace(evaluation, figures={**evaluation.figures, **figures}), evaluation, HOLDS)
    assert failed(verdict) == [name]


@pytest.mark.parametrize(("rows", "is_borderline"), [(60, True), (600, False)])
def test_a_calibration_error_that_may_be_chance_is_for_a_person(
    evaluation: Evaluation, rows: int, is_borderline: bool
) -> None:
    """An error of 0.1 is nothing for 60 products of a confidence of 0.8, and too much for 600."""
    unsure = np.where(evaluation.probabilities > 0, 0.8, 0.1)[:rows]
    few = replace(
        evaluation,
        figures={**evaluation.figures, "calibration_error": 0.1},
        probabilities=unsure,
        targets=evaluation.targets[:rows],
        true_codes=evaluation.true_codes[:rows],
        keys=evaluation.keys[:rows],
    )
    verdict = judge(few, few, HOLDS)
    assert failed(verdict) == ["calibration"]
    assert verdict.is_borderline == is_borderline
    assert ("chance alone gives up to" in verdict.failed[0].finding) == is_borderline


def test_a_behaviour_that_does_not_hold_decides(evaluation: Evaluation) -> None:
    verdict = judge(evaluation, evaluation, [*HOLDS, Behaviour("HTML", 0.9, 0.99, 200)])
    assert failed(verdict) == ["behaviour: HTML"]
    assert "90.0%" in verdict.failed[0].finding


def test_the_first_champion_has_nobody_to_be_worse_than(evaluation: Evaluation) -> None:
    verdict = judge(evaluation, None, HOLDS)
    assert verdict.passed
    assert [one.name for one in verdict.criteria] == ["calibration", "latency", "behaviour: in capitals"]


def test_figures_of_different_products_are_not_compared(evaluation: Evaluation) -> None:
    with pytest.raises(InputError, match="different products"):
        judge(evaluation, replace(evaluation, keys=[*evaluation.keys[1:], "other"]), HOLDS)


def test_a_type_that_only_one_of_them_knows_is_compared_by_its_code(evaluation: Evaluation) -> None:
    """Another order of the columns is no other model."""
    turned = replace(evaluation, codes=CODES[::-1], probabilities=evaluation.probabilities[:, ::-1])
    assert "+0.00 points, at least +0.00" in judge(turned, evaluation, HOLDS).criteria[0].finding


def test_the_same_figures_give_the_same_verdict(evaluation: Evaluation) -> None:
    other = wrong_about(evaluation, range(3, 600, 9))
    assert judge(other, evaluation, HOLDS) == judge(other, evaluation, HOLDS)


def test_what_is_too_uncertain_is_borderline_and_what_is_worse_is_not(evaluation: Evaluation) -> None:
    uncertain = wrong_about(evaluation, range(5, 600, 10))
    assert judge(uncertain, evaluation, HOLDS).is_borderline
    assert not judge(wrong_about(evaluation, range(0, 600, 7)), evaluation, HOLDS).is_borderline
    assert not judge(uncertain, evaluation, [replace(HOLDS[0], share=0.5)]).is_borderline
    assert not judge(evaluation, evaluation, HOLDS).is_borderline

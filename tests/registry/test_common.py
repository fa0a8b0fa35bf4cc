"""Two models of different tables of types are compared on what is common, and told what that was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aisle.catalog import TypeChanges
from aisle.model.bundle import Bundle
from aisle.model.mapping import in_types_of_today
from aisle.registry.gate import Verdict, judge
from aisle.training.behaviour import Behaviour
from aisle.training.evaluate import Evaluation

HOLDS = [Behaviour("in capitals", 1.0, 0.98, 200)]
FIGURES = {"calibration_error": 0.02, "latency_ms": {"p50": 5.0, "p95": 9.0, "p99": 12.0}}
TRUE = tuple("ABC"[row % 3] for row in range(600))


def saying(bundle: Bundle, codes: str, guesses: str, version: str = "challenger") -> Evaluation:
    """What a model that knows the types `codes` guesses of the 600 products."""
    probabilities = np.eye(len(codes))[[codes.index(guess) for guess in guesses]]
    targets = np.array([codes.find(code) for code in TRUE], dtype=np.intp)
    keys = [str(row) for row in range(len(TRUE))]
    return Evaluation(FIGURES, version, probabilities, targets, TRUE, tuple(codes), bundle.types(), keys, [])


def finding(verdict: Verdict, name: str) -> str:
    return next((one.finding for one in verdict.criteria if one.name == name), "")


def test_products_of_an_added_type_are_left_out_and_said(bundle: Bundle) -> None:
    """A challenger that is right about them gains nothing by it, and one that is wrong loses nothing."""
    champion = saying(bundle, "AB", "".join(one if one in "AB" else "A" for one in TRUE), "champion")
    right = judge(saying(bundle, "ABC", "".join(TRUE)), champion, HOLDS)
    wrong = judge(saying(bundle, "ABC", "".join(one if one in "AB" else "B" for one in TRUE)), champion, HOLDS)
    for verdict in (right, wrong):
        assert verdict.passed
        assert verdict.common is not None
        assert (verdict.rows, verdict.common.rows, verdict.common.added) == (600, 400, {"C": 200})
        assert "+0.00 points" in finding(verdict, "weighted F1")
        assert "not on 200 of types that the champion cannot know: C (200)" in finding(verdict, "common types")


def test_what_is_wrongly_put_into_an_added_type_counts_and_is_said(bundle: Bundle) -> None:
    champion = saying(bundle, "AB", "".join(one if one in "AB" else "A" for one in TRUE), "champion")
    greedy = saying(bundle, "ABC", "".join("C" if row % 30 == 0 else one for row, one in enumerate(TRUE)))
    verdict = judge(greedy, champion, HOLDS)
    assert not verdict.passed
    assert verdict.common is not None
    assert verdict.common.into_added == 20
    assert "20 of those compared were given one of these types" in finding(verdict, "common types")


def test_what_became_of_earlier_types_is_said(bundle: Bundle) -> None:
    same = saying(bundle, "ABC", "".join(TRUE))
    champion = replace(same, model_version="champion", changed={"a": "A", "b": "A", "z": None})
    verdict = judge(same, champion, HOLDS)
    assert verdict.passed
    assert finding(verdict, "common types") == "compared on 600 products; mapped: a → A, b → A; fell away: z"
    assert verdict.as_dict()["common"] == {
        "rows": 600,
        "added": {},
        "changed": {"a": "A", "b": "A", "z": None},
        "into_added": 0,
    }


def test_where_nothing_changed_nothing_is_said(bundle: Bundle) -> None:
    same = saying(bundle, "ABC", "".join(TRUE))
    assert finding(judge(same, same, HOLDS), "common types") == ""


def test_where_nothing_is_common_a_person_had_better_look(bundle: Bundle) -> None:
    verdict = judge(saying(bundle, "ABC", "".join(TRUE)), saying(bundle, "XY", "X" * 600, "champion"), HOLDS)
    assert verdict.passed
    assert verdict.is_borderline
    assert finding(verdict, "weighted F1") == ""
    assert "compared on 0 products; not on 600" in finding(verdict, "common types")


def test_the_challengers_own_budgets_count_all_the_same(bundle: Bundle) -> None:
    slow = replace(saying(bundle, "ABC", "".join(TRUE)), figures={**FIGURES, "calibration_error": 0.5})
    verdict = judge(slow, saying(bundle, "XY", "X" * 600, "champion"), HOLDS)
    assert [one.name for one in verdict.failed] == ["calibration"]


class TestProbabilities:
    ROWS = np.array([[0.4, 0.35, 0.25], [0.1, 0.2, 0.7]])

    def test_what_became_one_type_adds_up(self) -> None:
        """The first product is B's only when it is asked what B and C are together."""
        mapped, codes = in_types_of_today(self.ROWS, ("A", "B", "C"), TypeChanges({"C": "B"}))
        assert codes == ("A", "B")
        assert mapped == pytest.approx(np.array([[0.4, 0.6], [0.1, 0.9]]))

    def test_what_fell_away_is_left_out_and_the_rest_sums_to_1(self) -> None:
        mapped, codes = in_types_of_today(self.ROWS, ("A", "B", "C"), TypeChanges({"C": None}))
        assert codes == ("A", "B")
        assert mapped == pytest.approx(np.array([[0.4 / 0.75, 0.35 / 0.75], [1 / 3, 2 / 3]]))

    def test_a_product_that_was_surely_of_what_fell_away_may_be_anything(self) -> None:
        mapped, _ = in_types_of_today(np.array([[0.0, 0.0, 1.0]]), ("A", "B", "C"), TypeChanges({"C": None}))
        assert mapped == pytest.approx(np.array([[0.5, 0.5]]))

    def test_a_new_code_changes_no_bit(self) -> None:
        mapped, codes = in_types_of_today(self.ROWS, ("A", "B", "C"), TypeChanges({"B": "X", "other": "Y"}))
        assert codes == ("A", "X", "C")
        assert (mapped == self.ROWS).all()

    def test_a_model_all_of_whose_types_fell_away_says_what_it_said(self) -> None:
        mapped, codes = in_types_of_today(self.ROWS, ("A", "B", "C"), TypeChanges(dict.fromkeys("ABC")))
        assert codes == ("A", "B", "C")
        assert mapped is self.ROWS

"""What mistakes cost, and when a product is accepted in spite of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aisle.errors import InputError, UsageError
from aisle.model.calibration import lowest_threshold, lowest_threshold_by_cost
from aisle.model.decisions import ORDINARY, certainty, check_known, cost_matrix, read_costs
from aisle.training.calibrate import decision_thresholds
from aisle.training.recipes import Decisions

CODES = ("10", "20", "30")


def table(folder: Path, text: str) -> Path:
    file = folder / "costs.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_costs_are_read(tmp_path: Path) -> None:
    file = table(tmp_path, "\ufefftype,given,cost\n20,10,0.5\n10, 30 ,4\n\n")
    assert read_costs(file) == (("10", "30", 4.0), ("20", "10", 0.5))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not begin"),
        ("type,given\n10,20\n", "does not begin"),
        ("type,given,cost\n10,20\n", "line 2.*has 2 cells"),
        ("type,given,cost\n10,20,dear\n", "line 2.*'dear' is no cost"),
        ("type,given,cost\n10,20,-1\n", "'-1' is no cost"),
        ("type,given,cost\n10,20,nan\n", "'nan' is no cost"),
        ("type,given,cost\n10,20,inf\n", "'inf' is no cost"),
        ("type,given,cost\n10,10,1\n", "does not name two types"),
        ("type,given,cost\n,10,1\n", "does not name two types"),
        ("type,given,cost\n10,20,1\n10,20,2\n", "two costs of giving 10 the type 20"),
        ('type,given,cost\n"10,20,1\n', "is not a table"),
    ],
)
def test_a_table_that_is_none_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_costs(table(tmp_path, text))


def test_a_table_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_costs(tmp_path / "nothing.csv")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "costs.csv"
    file.write_bytes(b"type,given,cost\n\xff\xfe,20,1\n")
    with pytest.raises(InputError, match="not a table in UTF-8"):
        read_costs(file)


def test_costs_of_a_type_that_the_catalogue_does_not_have_are_refused() -> None:
    check_known([("10", "20", 2.0)], CODES)
    with pytest.raises(UsageError, match="the type 40"):
        check_known([("10", "40", 2.0)], CODES)


def test_a_mistake_that_is_not_listed_is_an_ordinary_one() -> None:
    matrix = cost_matrix([("10", "20", 3.0)], CODES)
    assert matrix is not None
    assert matrix.tolist() == [[0, 3, ORDINARY], [ORDINARY, 0, ORDINARY], [ORDINARY, ORDINARY, 0]]


def test_where_all_mistakes_cost_alike_the_certainty_is_the_confidence() -> None:
    assert cost_matrix([], CODES) is None
    assert certainty(np.array([[0.7, 0.2, 0.1]]), None).tolist() == [0.7]


def test_a_dear_mistake_makes_less_certain_and_a_cheap_one_more() -> None:
    given_10 = np.array([[0.7, 0.2, 0.1]])
    dear, cheap = (cost_matrix([("20", "10", cost)], CODES) for cost in (3.0, 0.0))
    assert certainty(given_10, dear) == pytest.approx([1 - 3 * 0.2 - 0.1])
    assert certainty(given_10, cheap) == pytest.approx([0.9])


def test_a_promise_that_is_none_of_the_usual_has_its_threshold() -> None:
    probabilities = np.tile([0.9, 0.1], (2000, 1))
    found = decision_thresholds(probabilities, np.zeros(2000, dtype=np.intp), Decisions(promise=0.985))
    assert found["0.985"] == 0.9
    assert set(found) == {"0.95", "0.97", "0.98", "0.985", "0.99"}


def test_dear_mistakes_raise_the_threshold() -> None:
    chance = np.random.default_rng(0)
    probabilities = chance.dirichlet([8.0, 0.3, 0.3], 20_000)
    targets = (probabilities.cumsum(axis=1) > chance.random((20_000, 1))).argmax(axis=1)
    accepted = {}
    for cost in (0.2, 1.0, 5.0):
        costs = (("20", "10", cost), ("30", "10", cost))
        how = Decisions(promise=0.95, costs=costs)
        threshold = decision_thresholds(probabilities, targets, how, CODES)["0.95"]
        assert threshold is not None
        accepted[cost] = (certainty(probabilities, cost_matrix(costs, CODES)) >= threshold).mean()
    assert accepted[0.2] > accepted[1.0] > accepted[5.0] > 0


def test_the_bound_by_cost_is_near_the_exact_one_where_all_mistakes_cost_alike() -> None:
    chance = np.random.default_rng(1)
    confidence = 1 - chance.beta(0.4, 3, size=5000)
    right = chance.random(5000) < confidence
    exact = lowest_threshold(confidence, right, 0.95, certainty=0.95)
    by_cost = lowest_threshold_by_cost(confidence, (~right).astype(np.float64), 0.05, certainty=0.95)
    assert exact is not None
    assert by_cost is not None
    assert exact <= by_cost  # it allows for more than mistakes that cost 0 or 1
    assert (confidence >= by_cost).mean() > 0.9 * (confidence >= exact).mean()


def test_what_it_may_cost_is_kept_as_certainly_as_was_said() -> None:
    """Of 200 thresholds, each from 2,000 rows of its own; what accepting costs is known of all rows."""
    chance = np.random.default_rng(0)
    everywhere = np.sort(1 - chance.beta(0.4, 3, size=50_000))[::-1]
    expected = np.cumsum((1 - everywhere) * 0.5 * (0.2 + 4.0)) / np.arange(1, len(everywhere) + 1)
    kept = []
    for _ in range(200):
        confidence = chance.choice(everywhere, 2000)
        costs = (chance.random(2000) >= confidence) * chance.choice([0.2, 4.0], 2000)
        threshold = lowest_threshold_by_cost(confidence, costs, 0.1, certainty=0.95)
        accepted = np.count_nonzero(everywhere >= (2 if threshold is None else threshold))
        kept.append(accepted == 0 or expected[accepted - 1] <= 0.1)
    assert np.mean(kept) > 0.93


def test_nothing_to_learn_from_promises_nothing() -> None:
    assert lowest_threshold_by_cost(np.array([]), np.array([]), 0.05, certainty=0.95) is None

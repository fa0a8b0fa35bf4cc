"""Accuracy from labels that come late and not at random, and without any label."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from tests.monitoring.conftest import observations, reference_of

from aisle.monitoring.labels import Interval, from_confidence, from_labels
from aisle.store.predictions import Decided, Label

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def labels(right: int, wrong: int, decision: str = "accept", confidence: float = 0.9) -> list[Label]:
    said = ["10"] * right + ["40"] * wrong
    return [Label(NOW, "10", confidence, decision, code) for code in said]


def test_without_a_label_there_is_no_accuracy() -> None:
    assert from_labels([], {"accept": Decided(100, 0.9)}) is None


def test_of_one_decision_the_interval_is_wilsons() -> None:
    found = from_labels(labels(80, 20), {"accept": Decided(100, 0.9)})
    assert found is not None
    assert found.accuracy.value == 0.8
    assert found.accuracy.low == pytest.approx(0.7112, abs=1e-4)
    assert found.accuracy.high == pytest.approx(0.8666, abs=1e-4)


def test_each_decision_counts_by_its_predictions_and_not_by_its_labels() -> None:
    """All that was for review was looked at, and little of what was accepted."""
    given = labels(10, 0) + labels(45, 45, "review")
    found = from_labels(given, {"accept": Decided(900, 0.98), "review": Decided(100, 0.5)})
    assert found is not None
    assert found.accuracy.value == pytest.approx(0.9 * 1.0 + 0.1 * 0.5)


def test_of_a_decision_that_nobody_looked_at_anything_is_possible() -> None:
    found = from_labels(labels(30, 30, "review"), {"accept": Decided(300, 0.95), "review": Decided(100, 0.5)})
    assert found is not None
    assert found.accuracy.value == pytest.approx(0.75 * 0.95 + 0.25 * 0.5)
    assert found.accuracy.low < 0.15
    assert found.accuracy.high > 0.88
    assert found.labels == {"accept": 0, "review": 60}


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    chance, held = np.random.default_rng(0), 0
    for _ in range(400):
        accepted, review = chance.binomial(40, 0.97), chance.binomial(60, 0.6)
        given = labels(accepted, 40 - accepted) + labels(review, 60 - review, "review")
        found = from_labels(given, {"accept": Decided(700, 0.97), "review": Decided(300, 0.6)})
        assert found is not None
        held += found.accuracy.low <= 0.7 * 0.97 + 0.3 * 0.6 <= found.accuracy.high
    assert held / 400 >= 0.93  # 95 %, less what a binomial varies by


def test_a_type_that_the_model_does_not_know_makes_it_wrong() -> None:
    given = [Label(NOW, "10", 0.9, "accept", "a new type")] * 20
    found = from_labels(given, {"accept": Decided(20, 0.9)})
    assert found is not None
    assert (found.accuracy.value, found.accuracy.low) == (0, 0)
    assert found.weighted_f1 is not None
    assert found.weighted_f1.value == 0


def test_weighted_f1_is_scikit_learns_where_every_label_weighs_the_same() -> None:
    from sklearn.metrics import f1_score

    chance = np.random.default_rng(1)
    true, guessed = (chance.choice(["10", "40", "60"], 200, p=(0.6, 0.3, 0.1)) for _ in range(2))
    given = [Label(NOW, str(g), 0.5, "review", str(t)) for t, g in zip(true, guessed, strict=True)]
    found = from_labels(given, {"review": Decided(200, 0.5)})
    assert found is not None
    assert found.weighted_f1 is not None
    assert found.weighted_f1.value == pytest.approx(f1_score(true, guessed, average="weighted"))
    assert found.weighted_f1.low < found.weighted_f1.value < found.weighted_f1.high


def test_the_interval_of_weighted_f1_is_that_of_resamples_within_each_decision() -> None:
    chance = np.random.default_rng(2)
    given = [
        Label(NOW, str(true if chance.random() < right else chance.integers(6)), 0.5, decision, str(true))
        for decision, right, count in (("accept", 0.95, 150), ("review", 0.4, 60))
        for true in (6 * chance.random(count) ** 2).astype(int)
    ]
    decided = {"accept": Decided(700, 0.97), "review": Decided(300, 0.6)}

    def weighted_f1(of: list[Label]) -> Interval:
        found = from_labels(of, decided)
        assert found is not None
        assert found.weighted_f1 is not None
        return found.weighted_f1

    resampled = [
        weighted_f1(
            [given[k] for first, last in ((0, 150), (150, 210)) for k in chance.integers(first, last, last - first)]
        )
        for _ in range(1000)
    ]
    low, high = np.percentile([one.value for one in resampled], [2.5, 97.5])
    found = weighted_f1(given)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)


def test_of_a_handful_of_labels_there_is_no_f1() -> None:
    found = from_labels(labels(5, 1), {"accept": Decided(6, 0.9)})
    assert found is not None
    assert (found.weighted_f1, found.calibration_error) == (None, None)


def test_the_calibration_error_is_the_gap_between_confidence_and_labels() -> None:
    given = [one for _ in range(20) for one in labels(3, 2, confidence=0.9)]
    found = from_labels(given, {"accept": Decided(100, 0.9)})
    assert found is not None
    assert found.calibration_error == pytest.approx(0.3, abs=0.02)  # each bin has a few labels


def test_more_labels_than_predictions_that_are_still_kept_are_no_error() -> None:
    assert from_labels(labels(3, 1), {}) is not None


def test_the_estimate_without_labels_is_corrected_by_how_far_off_the_confidence_was() -> None:
    """Of the reference nine of ten were right, and the model was 95 % sure of each."""
    rows = observations(1_000, seed=0, confidence=np.full(1_000, 0.95, np.float32))
    found = from_confidence([0.95] * 500, reference_of(rows))
    assert found is not None
    assert found.value == pytest.approx(0.9, abs=1e-6)
    assert found.low < 0.9 < found.high


def test_without_products_there_is_no_estimate() -> None:
    assert from_confidence([], reference_of(observations(100, seed=0))) is None
    assert from_confidence([0.5], reference_of(observations(0, seed=0))) is None

"""Figures from probabilities and true types, against hand-computed cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from aisle.catalog import Product
from aisle.errors import InputError
from aisle.model.bundle import Bundle
from aisle.model.predictor import Predictor
from aisle.training.evaluate import coverage_curve, evaluate, measure, reliability

CODES = ("10", "40", "50")
PROBABILITIES = np.array([[0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
TARGETS = np.array([0, 1, 1, 2])


def test_the_figures_of_a_small_case_are_those_by_hand() -> None:
    figures = measure(PROBABILITIES, TARGETS, CODES)
    assert figures["rows"] == 4
    assert figures["accuracy"] == 0.75
    # F1: type 10 has 1 of 2 guesses right, 40 has 1 of 2 rows found, 50 is perfect.
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3, abs=1e-6)
    assert figures["weighted_f1"] == pytest.approx((2 / 3 + 2 * 2 / 3 + 1) / 4, abs=1e-6)
    assert figures["log_loss"] == pytest.approx(-np.log([0.9, 0.7, 0.3, 0.8]).mean(), abs=1e-6)
    assert figures["top_3"] == 1
    assert figures["coverage"] == {"0.95": 0.75, "0.97": 0.75, "0.98": 0.75, "0.99": 0.75}
    assert figures["per_type"]["40"] == {"precision": 1, "recall": 0.5, "f1": 0.666667, "rows": 2}


def test_a_type_that_the_model_does_not_know_is_always_wrong() -> None:
    figures = measure(PROBABILITIES, np.array([0, 1, -1, 2]), CODES)
    assert figures["accuracy"] == 0.75
    assert figures["per_type"]["unknown"]["f1"] == 0
    assert figures["log_loss"] > 5


def test_coverage_falls_as_more_accuracy_is_asked_for() -> None:
    shares, accuracies = coverage_curve(PROBABILITIES, TARGETS)
    assert shares.tolist() == [0.25, 0.5, 0.75, 1]
    assert accuracies.tolist() == [1, 1, 1, 0.75]


def test_reliability_bins_hold_every_row_once() -> None:
    bins = reliability(PROBABILITIES, TARGETS, bins=3)
    assert sum(rows for _, _, rows in bins) == 4


def test_products_without_anything_to_look_at_are_counted_and_left_out(predictor: Predictor) -> None:
    products = [Product("livre ancien"), Product(""), Product("piscine")]
    evaluation = evaluate(predictor, ["a", "b", "c"], products, ["10", "10", "2583"])
    assert evaluation.figures["left_out"] == 1
    assert evaluation.figures["rows"] == 2
    assert evaluation.keys == ["a", "c"]


def test_latency_is_that_of_one_product(predictor: Predictor) -> None:
    ticks = itertools.count()
    evaluation = evaluate(predictor, ["a"], [Product("livre")], ["10"], clock=lambda: float(next(ticks)))
    assert evaluation.figures["latency_ms"] == {"p50": 1000, "p95": 1000, "p99": 1000}


def test_nothing_to_measure_on_is_said(predictor: Predictor) -> None:
    with pytest.raises(InputError, match="no product"):
        evaluate(predictor, [], [], [])


def test_an_evaluation_measures_what_is_predicted(predictor: Predictor) -> None:
    products = [Product("livre ancien relié"), Product("piscine hors sol")]
    evaluation = evaluate(predictor, ["a", "b"], products, ["10", "2583"])
    predicted = [outcome.type.code for outcome in predictor.predict(products) if not isinstance(outcome, InputError)]
    assert [evaluation.codes[column] for column in evaluation.probabilities.argmax(axis=1)] == predicted


def test_a_model_of_another_catalogue_is_not_measured(predictor: Predictor) -> None:
    products = [Product("livre"), Product("piscine"), Product("jeu")]
    with pytest.raises(InputError, match="knows the types of 33% of these products only"):
        evaluate(predictor, ["a", "b", "c"], products, ["10", "tout", "autre"])


def test_the_threshold_of_the_bundle_is_measured_too(bundle: Bundle) -> None:
    with Predictor(bundle, threads=1) as loaded:
        loaded.threshold = 0.0
        figures = evaluate(loaded, ["a"], [Product("livre ancien")], ["2583"]).figures
        loaded.threshold = None
        cautious = evaluate(loaded, ["a"], [Product("livre ancien")], ["2583"]).figures
    assert figures["accepted"] == {"coverage": 1.0, "accuracy": 0.0}
    assert cautious["accepted"] == {"coverage": 0.0}

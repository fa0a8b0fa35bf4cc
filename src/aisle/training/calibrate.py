"""From models to a classifier: temperatures, fusion and decision thresholds, from rows the models have not seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aisle.model.calibration import Array, fit_temperature, lowest_threshold
from aisle.model.classifier import Models, calibrated
from aisle.model.text import Scores
from aisle.training.examples import Rows
from aisle.training.recipes import Decisions

Thresholds = dict[str, float | None]


def fit_temperatures(models: Models, scores: Mapping[str, Scores], rows: Rows) -> dict[str, float]:
    """A temperature for each model, from the rows that it can look at; 1 where there is none."""
    present = models.present(rows.inputs)
    temperatures = {}
    for index, name in enumerate(models.names()):
        seen = np.isfinite(scores[name][np.arange(len(rows)), rows.targets])
        here = present[:, index] & seen
        temperatures[name] = fit_temperature(scores[name][here], rows.targets[here]) if here.any() else 1.0
    return temperatures


def calibrated_scores(models: Models, rows: Rows, types: int) -> tuple[dict[str, float], dict[str, Array]]:
    """The temperatures, and each model's n x types log-probabilities by them."""
    scores = models.scores(rows.inputs, types)
    temperatures = fit_temperatures(models, scores, rows)
    return temperatures, calibrated(scores, temperatures)


def decision_thresholds(probabilities: Array, rows: Rows, how: Decisions) -> Thresholds:
    """For each promised accuracy the lowest confidence that keeps it; None: none does."""
    right = probabilities.argmax(axis=1) == rows.targets
    confidence = probabilities.max(axis=1)
    return {
        f"{accuracy:.2f}": lowest_threshold(confidence, right, accuracy, certainty=how.certainty)
        for accuracy in how.promised_accuracies
    }

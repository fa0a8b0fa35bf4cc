"""From models to a classifier: temperatures, fusion and decision thresholds, from rows the models have not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from aisle.model.blend import BlendedModel, SingleTextModel
from aisle.model.calibration import Array, calibrated, fit_temperature, lowest_threshold, lowest_threshold_by_cost
from aisle.model.classifier import Models
from aisle.model.decisions import certainty, cost_matrix
from aisle.model.text import Scores
from aisle.training.examples import Rows, in_parts
from aisle.training.recipes import Decisions
from aisle.training.stacking import fit_weighted_sum

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


def calibrated_scores(
    models: Models, rows: Rows, types: int, *, threads: int = 1
) -> tuple[dict[str, float], dict[str, Array]]:
    """The temperatures, and each model's n x types log-probabilities by them."""
    parts = in_parts(lambda part: models.scores(part.inputs, types), rows, threads)
    scores = {name: np.concatenate([part[name] for part in parts]) for name in models.names()}
    temperatures = fit_temperatures(models, scores, rows)
    return temperatures, calibrated(scores, temperatures)


def fit_blend(parts: Mapping[str, SingleTextModel], field: str, held_out: Rows, *, threads: int = 1) -> BlendedModel:
    """The models of one text, each as far as it is to be believed of texts that none of them has seen."""
    rows = held_out.at(np.flatnonzero(held_out.inputs.has(field)))
    targets = rows.targets
    scores = {name: scores_of(part, field, rows, threads) for name, part in parts.items()}
    temperatures = {}
    for name, one in scores.items():
        seen = np.isfinite(one[np.arange(len(targets)), targets])
        temperatures[name] = fit_temperature(one[seen], targets[seen]) if seen.any() else 1.0
    weights = fit_weighted_sum(calibrated(scores, temperatures), targets).weights
    return BlendedModel(parts, temperatures, weights)


def scores_of(model: SingleTextModel, field: str, rows: Rows, threads: int) -> Scores:
    return np.concatenate(in_parts(lambda part: model.scores(part.inputs.field(field)), rows, threads))


def decision_thresholds(
    probabilities: Array, targets: NDArray[np.intp], how: Decisions, codes: Sequence[str] = ()
) -> Thresholds:
    """For each promised accuracy the lowest certainty that keeps it; None: none does.

    `probabilities` (n x types) are of rows that nothing which gave them was fitted on; NaN rows do not count.
    """
    answered = np.flatnonzero(~np.isnan(probabilities).any(axis=1))
    probabilities, targets = probabilities[answered], targets[answered]
    guesses, matrix = probabilities.argmax(axis=1), cost_matrix(how.costs, codes)
    sure = certainty(probabilities, matrix)

    def threshold(promise: float) -> float | None:
        if matrix is None:
            return lowest_threshold(sure, guesses == targets, promise, certainty=how.certainty)
        return lowest_threshold_by_cost(sure, matrix[targets, guesses], 1 - promise, certainty=how.certainty)

    return {promise_key(promise): threshold(promise) for promise in sorted({*how.promised_accuracies, how.promise})}


def promise_key(promise: float) -> str:
    return f"{promise:g}"

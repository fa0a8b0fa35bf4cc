"""Late fusion: the calibrated probabilities of the models that could look at a product, joined to one answer.

A log-linear pool: log p(type) = sum over models of weight x log p_model(type), normalised. There is a set of
weights for each set of models that may be present, fitted on held-out rows as if only those had answered, so
that a product without an image or a description gets calibrated probabilities too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from aisle.model.calibration import Array, log_softmax

PRIOR_STRENGTH = 5.0
"""How many held-out rows the assumption of equal weights is worth, where few rows have all of the inputs."""

Present = NDArray[np.bool_]
"""n x models: could the model look at the product?"""


class Fusion:
    """`weights` maps a set of models, written `image+title` in alphabetical order, to the weight of each."""

    def __init__(self, models: Sequence[str], weights: Mapping[str, Sequence[float]]) -> None:
        self.models = tuple(models)
        self.weights = {name: tuple(values) for name, values in weights.items()}

    def log_probabilities(self, log_probabilities: Mapping[str, Array], present: Present) -> Array:
        """n x types from each model's n x types; rows of a model that is not present are not read.

        A row without any model comes back as NaN.
        """
        n, types = next(iter(log_probabilities.values())).shape
        out = np.full((n, types), np.nan)
        for pattern in np.unique(present, axis=0):
            rows = np.flatnonzero((present == pattern).all(axis=1))
            names = [name for name, here in zip(self.models, pattern, strict=True) if here]
            if names:
                weights = self.weights[pool_name(names)]
                out[rows] = _pool([log_probabilities[name][rows] for name in sorted(names)], weights)
        return out


def pool_name(models: Sequence[str]) -> str:
    return "+".join(sorted(models))


def fit_fusion(log_probabilities: Mapping[str, Array], present: Present, targets: NDArray[np.intp]) -> Fusion:
    """Fit the weights of every set of models on held-out rows; `present` has the mapping's order of models."""
    models = list(log_probabilities)
    pools = chain.from_iterable(combinations(sorted(models), size) for size in range(1, len(models) + 1))
    weights = {}
    for names in pools:
        rows = np.flatnonzero(present[:, [models.index(name) for name in names]].all(axis=1))
        weights[pool_name(names)] = _fit_weights([log_probabilities[name][rows] for name in names], targets[rows])
    return Fusion(models, weights)


def _pool(logs: Sequence[Array] | Array, weights: Sequence[float] | Array) -> Array:
    return log_softmax(sum((weight * one for weight, one in zip(weights, logs, strict=True)), np.zeros_like(logs[0])))


def _fit_weights(logs: Sequence[Array], targets: NDArray[np.intp]) -> list[float]:
    """Weights >= 0 with the lowest log-loss, drawn towards equal weights that sum to 1 where rows are few."""
    stacked = np.stack(logs)  # models x n x types
    at_target = stacked[:, np.arange(len(targets)), targets]
    start = np.full(len(logs), 1.0 / len(logs))

    def loss(weights: Array) -> tuple[float, Array]:
        pooled = _pool(stacked, weights)
        expected = (np.exp(pooled) * stacked).sum(axis=2)
        penalty = weights - start
        value = -pooled[np.arange(len(targets)), targets].sum() + PRIOR_STRENGTH * (penalty @ penalty)
        gradient = (expected - at_target).sum(axis=1) + 2 * PRIOR_STRENGTH * penalty
        return float(value), gradient

    result = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * len(logs))
    return [float(weight) for weight in result.x]

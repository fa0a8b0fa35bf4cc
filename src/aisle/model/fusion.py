"""Late fusion: the calibrated probabilities of the models that could look at a product, joined to one answer.

Three ways to join, and a recipe chooses: a log-linear pool, a weighted sum, a small dense head. A product that only
one model can look at gets that model's answer (weighed, in the log-linear pool).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain, combinations
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from aisle.model.calibration import Array, log_softmax
from aisle.model.image import DenseHead, Features

PRIOR_STRENGTH = 5.0
"""How many held-out rows the assumption of equal weights is worth, where few rows have all of the inputs."""

LEAST_LOG = -15.0
"""What a dense head sees of a smaller log-probability."""

EM_STEPS = 200
SMALLEST_WEIGHT = 1e-12

Present = NDArray[np.bool_]
"""n x models: could the model look at the product?"""


class Fusion(ABC):
    """Joins what `models`, by name, say."""

    kind: ClassVar[str]

    def __init__(self, models: Sequence[str]) -> None:
        self.models = tuple(models)

    def log_probabilities(self, log_probabilities: Mapping[str, Array], present: Present) -> Array:
        """n x types from each model's n x types; rows of a model that is not present are not read.

        A row without any model comes back as NaN.
        """
        n, types = next(iter(log_probabilities.values())).shape
        out = np.full((n, types), np.nan)
        for pattern in np.unique(present, axis=0):
            rows = np.flatnonzero((present == pattern).all(axis=1))
            names = sorted(name for name, here in zip(self.models, pattern, strict=True) if here)
            if names:
                out[rows] = self._join(names, [log_probabilities[name][rows] for name in names])
        return out

    @abstractmethod
    def table(self) -> dict[str, Any]:
        """What `fusion_from` reads, beside the arrays."""

    @abstractmethod
    def _join(self, names: Sequence[str], logs: Sequence[Array]) -> Array:
        """n x types log-probabilities of the models `names`, in alphabetical order."""


class LogLinearPool(Fusion):
    """log p(type) = sum over models of weight x log p_model(type), normalised.

    There is a set of weights for each set of models that may be present, fitted on held-out rows as if only those
    had answered, so that a product without an image or a description gets calibrated probabilities too. `weights`
    maps a set of models, written `image+title` in alphabetical order, to the weight of each.
    """

    kind = "log_linear"

    def __init__(self, models: Sequence[str], weights: Mapping[str, Sequence[float]]) -> None:
        super().__init__(models)
        self.weights = {name: tuple(values) for name, values in weights.items()}

    def table(self) -> dict[str, Any]:
        return {"kind": self.kind, "models": self.models, "weights": self.weights}

    def _join(self, names: Sequence[str], logs: Sequence[Array]) -> Array:
        return _pool(logs, self.weights[pool_name(names)])


class WeightedSum(Fusion):
    """p(type) = sum over models of weight x p_model(type); the weights of those that are there sum to 1."""

    kind = "weighted_sum"

    def __init__(self, models: Sequence[str], weights: Mapping[str, float]) -> None:
        super().__init__(models)
        self.weights = dict(weights)

    def table(self) -> dict[str, Any]:
        return {"kind": self.kind, "models": self.models, "weights": self.weights}

    def _join(self, names: Sequence[str], logs: Sequence[Array]) -> Array:
        weights = np.maximum([self.weights[name] for name in names], SMALLEST_WEIGHT)
        shares = np.log(weights / weights.sum())
        joined: Array = np.logaddexp.reduce([share + one for share, one in zip(shares, logs, strict=True)])
        return joined


class DenseFusion(Fusion):
    """A dense head on the log-probabilities of all models, side by side in the order of `models`.

    Where not all are there, those that are count alike.
    """

    kind = "dense_head"

    def __init__(self, models: Sequence[str], head: DenseHead) -> None:
        super().__init__(models)
        self.head = head

    def table(self) -> dict[str, Any]:
        return {"kind": self.kind, "models": self.models}

    def _join(self, names: Sequence[str], logs: Sequence[Array]) -> Array:
        if len(names) < len(self.models):
            return _pool(logs, [1 / len(names)] * len(names))
        by_name = dict(zip(names, logs, strict=True))
        return log_softmax(self.head.scores(self.features([by_name[name] for name in self.models])))

    @staticmethod
    def features(logs: Sequence[Array]) -> Features:
        """n x (models x types): what the head looks at, of the log-probabilities of all models in order."""
        return np.maximum(np.concatenate(logs, axis=1), LEAST_LOG).astype(np.float32)


def fusion_from(table: Mapping[str, Any], head: DenseHead | None) -> Fusion:
    """The fusion that wrote `table`. Raises KeyError, TypeError or ValueError for any other."""
    match table.get("kind", LogLinearPool.kind):
        case LogLinearPool.kind:
            return LogLinearPool(table["models"], table["weights"])
        case WeightedSum.kind:
            return WeightedSum(table["models"], table["weights"])
        case DenseFusion.kind if head is not None:
            return DenseFusion(table["models"], head)
        case kind:
            raise ValueError(f"no fusion of kind {kind!r}")


def pool_name(models: Sequence[str]) -> str:
    return "+".join(sorted(models))


def fit_log_linear_pool(
    log_probabilities: Mapping[str, Array], present: Present, targets: NDArray[np.intp]
) -> LogLinearPool:
    """Fit the weights of every set of models on held-out rows; `present` has the mapping's order of models."""
    models = list(log_probabilities)
    pools = chain.from_iterable(combinations(sorted(models), size) for size in range(1, len(models) + 1))
    weights = {}
    for names in pools:
        rows = np.flatnonzero(present[:, [models.index(name) for name in names]].all(axis=1))
        weights[pool_name(names)] = _fit_weights([log_probabilities[name][rows] for name in names], targets[rows])
    return LogLinearPool(models, weights)


def fit_weighted_sum(log_probabilities: Mapping[str, Array], targets: NDArray[np.intp]) -> WeightedSum:
    """The weights with the highest likelihood on held-out rows that every model could look at.

    By expectation maximisation for a mixture whose parts are known; a few rows' worth of equal weights keeps a
    weight from becoming 0 by chance.
    """
    models = list(log_probabilities)
    rows = np.arange(len(targets))
    at_target = np.stack([log_probabilities[name][rows, targets] for name in models], axis=1)
    weights = np.full(len(models), 1 / len(models))
    for _ in range(EM_STEPS):
        shares = log_softmax(at_target + np.log(np.maximum(weights, SMALLEST_WEIGHT)))
        weights = np.exp(shares).sum(axis=0) + PRIOR_STRENGTH / len(models)
        weights /= weights.sum()
    return WeightedSum(models, dict(zip(models, weights.tolist(), strict=True)))


def _pool(logs: Sequence[Array] | Array, weights: Sequence[float] | Array) -> Array:
    return log_softmax(sum((weight * one for weight, one in zip(weights, logs, strict=True)), np.zeros_like(logs[0])))


def _fit_weights(logs: Sequence[Array], targets: NDArray[np.intp]) -> list[float]:
    """Weights >= 0 with the lowest log-loss, drawn towards equal weights that sum to 1 where rows are few."""
    from scipy.optimize import minimize  # noqa: PLC0415  only training fits

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

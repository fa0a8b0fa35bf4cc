"""Late fusion: the calibrated probabilities of the models that could look at a product, joined to one answer.

Ways to join: stacking, which learns from held-out rows how far to believe which model where; and the weighted sum and
the small dense head of the original project. (The log-linear pool is that of bundles of an older aisle.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from aisle.model.calibration import Array, log_softmax
from aisle.model.image import DenseHead, Features

BENDS = (-2.5, -5.0, -8.0)
"""Where stacking may believe a log-probability more or less than above."""

LEAST_LOG = -15.0
"""What a dense head sees of a smaller log-probability."""

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
        # Most batches have one pattern, and looking for others takes longer than all the rest of a short one.
        alike = len(present) and (present == present[0]).all()
        for pattern in present[:1] if alike else np.unique(present, axis=0):
            rows = np.flatnonzero((present == pattern).all(axis=1))
            names = sorted(name for name, here in zip(self.models, pattern, strict=True) if here)
            if names:
                out[rows] = self._join(names, [log_probabilities[name][rows] for name in names])
        return out

    @abstractmethod
    def table(self) -> dict[str, Any]:
        """What `fusion_from` reads, beside the arrays."""

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """The numbers of it, none for most."""
        return {}

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


@dataclass(frozen=True, slots=True)
class Stack:
    """What stacking learnt for one set of m models, in alphabetical order, and k types.

    `slopes` is m x (1 + bends), `by_type` m x k, `bias` k and `cross` (m x k) x k.
    """

    slopes: Array
    by_type: Array
    bias: Array
    cross: Features

    @classmethod
    def of_equals(cls, models: int, types: int) -> Stack:
        """Before anything is learnt: every model counts alike."""
        slopes = np.zeros((models, 1 + len(BENDS)))
        slopes[:, 0] = 1 / models
        cross = np.zeros((models * types, types), np.float32)
        return cls(slopes, np.zeros((models, types)), np.zeros(types), cross)

    def log_probabilities(self, logs: Sequence[Array]) -> Array:
        """n x types from each model's; every row by itself."""
        scores = (
            DenseHead(self.cross, np.zeros(self.cross.shape[1], np.float32)).scores(cross_features(logs)) + self.bias
        )
        for one, slopes, by_type in zip(logs, self.slopes, self.by_type, strict=True):
            scores += one * by_type
            for slope, bent in zip(slopes, bent_logs(one), strict=True):
                scores += slope * bent
        return log_softmax(scores)


class StackedFusion(Fusion):
    """Stacking (D. Wolpert, Stacked generalization, 1992): a multinomial logistic regression on what the models say.

    The score of a type adds up, over the models, a bent line of the log-probability that the model gives this type
    (its bends the same for all types), a weight of this model for this type, and what the model's probabilities of
    all types say. There is a `Stack` for each set of models that may be present, written `image+title`; models
    whose set nobody fitted count alike.
    """

    kind = "stacked"

    def __init__(self, models: Sequence[str], stacks: Mapping[str, Stack]) -> None:
        super().__init__(models)
        self.stacks = dict(stacks)

    def table(self) -> dict[str, Any]:
        return {"kind": self.kind, "models": self.models, "stacks": sorted(self.stacks)}

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {f"{name}:{part}": getattr(one, part) for name, one in self.stacks.items() for part in Stack.__slots__}

    def _join(self, names: Sequence[str], logs: Sequence[Array]) -> Array:
        stack = self.stacks.get(pool_name(names)) or Stack.of_equals(len(names), logs[0].shape[1])
        return stack.log_probabilities(logs)


def bent_logs(logs: Array) -> list[Array]:
    """The logarithms, and what is above each bend of them."""
    return [logs, *(np.maximum(logs, bend) for bend in BENDS)]


def cross_features(logs: Sequence[Array]) -> Features:
    """n x (models x types): all probabilities side by side."""
    return np.exp(np.concatenate(logs, axis=1)).astype(np.float32)


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

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        return self.head.arrays()

    def _join(self, names: Sequence[str], logs: Sequence[Array]) -> Array:
        if len(names) < len(self.models):
            return _pool(logs, [1 / len(names)] * len(names))
        by_name = dict(zip(names, logs, strict=True))
        return log_softmax(self.head.scores(self.features([by_name[name] for name in self.models])))

    @staticmethod
    def features(logs: Sequence[Array]) -> Features:
        """n x (models x types): what the head looks at, of the log-probabilities of all models in order."""
        return np.maximum(np.concatenate(logs, axis=1), LEAST_LOG).astype(np.float32)


def fusion_from(table: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Fusion:
    """The fusion that wrote `table` and `arrays`. Raises KeyError, TypeError or ValueError for any other."""
    match table.get("kind", LogLinearPool.kind):
        case StackedFusion.kind:
            parts = Stack.__slots__
            stacks = {name: Stack(*(arrays[f"{name}:{part}"] for part in parts)) for name in table["stacks"]}
            return StackedFusion(table["models"], stacks)
        case LogLinearPool.kind:
            return LogLinearPool(table["models"], table["weights"])
        case WeightedSum.kind:
            return WeightedSum(table["models"], table["weights"])
        case DenseFusion.kind:
            return DenseFusion(table["models"], DenseHead.from_arrays(arrays))
        case kind:
            raise ValueError(f"no fusion of kind {kind!r}")


def pool_name(models: Sequence[str]) -> str:
    return "+".join(sorted(models))


def _pool(logs: Sequence[Array] | Array, weights: Sequence[float] | Array) -> Array:
    return log_softmax(sum((weight * one for weight, one in zip(weights, logs, strict=True)), np.zeros_like(logs[0])))

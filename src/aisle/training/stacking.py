"""Fitting how models are joined, on rows that none of them has learnt from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from aisle.model.calibration import Array, log_softmax
from aisle.model.fusion import (
    SMALLEST_WEIGHT,
    Present,
    Stack,
    StackedFusion,
    WeightedSum,
    bent_logs,
    cross_features,
    pool_name,
)

EM_STEPS = 200
EQUAL_ROWS = 5.0
"""How many held-out rows the assumption of equal weights is worth in a weighted sum."""

Targets = NDArray[np.intp]
Logs = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Penalties:
    """How strongly (L2) each part of a stack is drawn towards models that count alike, in rows.

    The few numbers that all types share are nearly free; those of one type, and those of a pair of types, are not.
    """

    slopes: float = 20.0
    by_type: float = 100.0
    bias: float = 10.0
    cross: float = 10.0

    def times(self, factor: float) -> Penalties:
        return Penalties(self.slopes, self.by_type * factor, self.bias * factor, self.cross * factor)


FACTORS = (1.0, 4.0, 16.0, 64.0, 1024.0)
"""How many times stronger the penalties may be: fewer rows want stronger ones."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """The fusion, and n x types log-probabilities of its rows, each by a fusion that had not seen that row.

    A row that no model can look at is NaN.
    """

    fusion: StackedFusion
    unseen: Array
    penalties: Penalties


def fit_stacked(
    logs: Logs,
    present: Present,
    targets: Targets,
    *,
    sets: Iterable[Sequence[str]] | None = None,
    smallest: int = 1,
    penalties: Penalties = Penalties(),
    folds: int = 5,
    seed: int = 0,
) -> Fitted:
    """`present` has the columns of `logs`. Each of `sets` (default: each that there can be) gets a stack of its own,
    as if only its models had answered; those of fewer than `smallest` models count alike (one model alone, as it is).

    How strong the penalties are is decided by the log-loss of rows left out, in `folds` parts: the strongest that are
    not clearly worse than the best, so that what is learnt is not a peculiarity of these rows.
    """
    models = list(logs)
    parts = _parts(targets, folds, seed)
    unseen = {factor: _unseen(logs, present, targets, parts, penalties.times(factor), smallest) for factor in FACTORS}
    kept = _strongest_that_is_as_good({factor: _losses(one, targets) for factor, one in unseen.items()})
    chosen = [names for names in sets or _subsets(models) if len(names) >= smallest]
    fusion = _fit_sets(logs, present, targets, chosen, penalties.times(kept))
    return Fitted(fusion, unseen[kept], penalties.times(kept))


def fit_weighted_sum(logs: Logs, targets: Targets) -> WeightedSum:
    """The weights with the highest likelihood on held-out rows that every model could look at.

    By expectation maximisation for a mixture whose parts are known; a few rows' worth of equal weights keeps a
    weight from becoming 0 by chance.
    """
    models = list(logs)
    rows = np.arange(len(targets))
    at_target = np.stack([logs[name][rows, targets] for name in models], axis=1)
    weights = np.full(len(models), 1 / len(models))
    for _ in range(EM_STEPS):
        shares = log_softmax(at_target + np.log(np.maximum(weights, SMALLEST_WEIGHT)))
        weights = np.exp(shares).sum(axis=0) + EQUAL_ROWS / len(models)
        weights /= weights.sum()
    return WeightedSum(models, dict(zip(models, weights.tolist(), strict=True)))


def _subsets(models: Sequence[str]) -> list[Sequence[str]]:
    return list(chain.from_iterable(combinations(sorted(models), size) for size in range(1, len(models) + 1)))


def _parts(targets: Targets, folds: int, seed: int) -> NDArray[np.intp]:
    """n: the part of each row; every part has its share of each type."""
    order = np.random.default_rng(seed).permutation(len(targets))
    order = order[np.argsort(targets[order], kind="stable")]
    parts = np.empty(len(targets), np.intp)
    parts[order] = np.arange(len(targets)) % folds
    return parts


def _unseen(
    logs: Logs, present: Present, targets: Targets, parts: NDArray[np.intp], penalties: Penalties, smallest: int
) -> Array:
    models = list(logs)
    found = np.full((len(targets), next(iter(logs.values())).shape[1]), np.nan)
    there = [[models[index] for index in np.flatnonzero(one)] for one in np.unique(present, axis=0)]
    for part in np.unique(parts):
        rest, here = np.flatnonzero(parts != part), np.flatnonzero(parts == part)
        sets = [names for names in there if len(names) >= max(smallest, 1)]
        fusion = _fit_sets(_at(logs, rest), present[rest], targets[rest], sets, penalties)
        found[here] = fusion.log_probabilities(_at(logs, here), present[here])
    return found


def _fit_sets(
    logs: Logs, present: Present, targets: Targets, sets: Sequence[Sequence[str]], penalties: Penalties
) -> StackedFusion:
    models = list(logs)
    stacks = {}
    for names in map(sorted, sets):
        rows = np.flatnonzero(present[:, [models.index(name) for name in names]].all(axis=1))
        stacks[pool_name(names)] = fit_stack([logs[name][rows] for name in names], targets[rows], penalties)
    return StackedFusion(models, stacks)


def fit_stack(logs: Sequence[Array], targets: Targets, penalties: Penalties) -> Stack:
    """The stack with the lowest penalised log-loss: a convex problem, so that there is one."""
    types = logs[0].shape[1]
    start = Stack.of_equals(len(logs), types)
    plain = np.stack(logs)
    bent = np.stack([bent for one in logs for bent in bent_logs(one)]).reshape(
        start.slopes.size, -1
    )  # ... x (n x types)
    cross = cross_features(logs).astype(np.float64)
    rows = np.arange(len(targets))
    shapes = [start.slopes.shape, start.by_type.shape, start.bias.shape, start.cross.shape]
    towards = np.concatenate([np.ravel(getattr(start, part)) for part in Stack.__slots__]).astype(np.float64)
    strengths = np.concatenate(
        [
            np.full(int(np.prod(shape)), getattr(penalties, part))
            for part, shape in zip(Stack.__slots__, shapes, strict=True)
        ]
    )

    def loss(numbers: Array) -> tuple[float, Array]:
        slopes, by_type, bias, pairs = _cut(numbers, shapes)
        scores = (
            (slopes.ravel() @ bent).reshape(-1, types) + (by_type[:, None] * plain).sum(axis=0) + bias + cross @ pairs
        )
        answers = log_softmax(scores)
        away = numbers - towards
        value = -answers[rows, targets].sum() + (strengths * away * away).sum()
        errors = np.exp(answers)
        errors[rows, targets] -= 1
        gradient = [
            bent @ errors.ravel(),
            (errors * plain).sum(axis=1),
            errors.sum(axis=0),
            cross.T @ errors,
        ]
        return float(value), np.concatenate([one.ravel() for one in gradient]) + 2 * strengths * away

    best = minimize(loss, towards, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    slopes, by_type, bias, pairs = _cut(best, shapes)
    return Stack(slopes, by_type, bias, pairs.astype(np.float32))


def _cut(numbers: Array, shapes: Sequence[tuple[int, ...]]) -> Iterator[Array]:
    begin = 0
    for shape in shapes:
        end = begin + int(np.prod(shape))
        yield numbers[begin:end].reshape(shape)
        begin = end


def _at(logs: Logs, rows: NDArray[np.intp]) -> dict[str, Array]:
    return {name: one[rows] for name, one in logs.items()}


def _losses(logs: Array, targets: Targets) -> Array:
    at_target = logs[np.arange(len(targets)), targets]
    return -at_target[np.isfinite(at_target)]


def _strongest_that_is_as_good(losses: Mapping[float, Array]) -> float:
    """The rule of one standard error (L. Breiman et al., Classification and Regression Trees, 1984), row by row."""
    best = min(losses.values(), key=lambda one: one.sum())
    if len(best) < 2:
        return max(losses)
    worse = {factor: one - best for factor, one in losses.items()}
    limit = {factor: one.std(ddof=1) / np.sqrt(len(one)) for factor, one in worse.items()}
    return max(factor for factor, one in worse.items() if one.mean() <= limit[factor])

"""Calibration: scores → probabilities that mean what they say.

Temperature scaling (C. Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599): one number a
model, fitted on held-out rows, which changes how sure the model is but not which type comes first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
PRIOR_ROWS = 5.0

SMALLEST_LOG = -1e3
"""Below it a probability is 0 in float64 anyway, and sums stay finite."""


def log_softmax(scores: NDArray[np.floating]) -> Array:
    """n x types: the logarithms of probabilities that sum to 1 in each row."""
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    logs: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def calibrated(scores: Mapping[str, NDArray[np.float32]], temperatures: Mapping[str, float]) -> dict[str, Array]:
    """Log-probabilities of each model.

    A type that a model never saw gets an even share from it: what never came with a description is not made
    impossible by one.
    """
    return {
        name: _with_even_shares(log_softmax(one / np.float32(temperatures[name]))) for name, one in scores.items()
    }


def _with_even_shares(logs: Array) -> Array:
    unseen = np.isneginf(logs)
    types = logs.shape[1]
    share = unseen.sum(axis=1, keepdims=True) / types
    seen = np.maximum(logs, SMALLEST_LOG) + np.log1p(-np.minimum(share, 1 - 1 / types))
    filled: Array = np.where(unseen, -np.log(types), seen)
    return filled


def fit_temperature(scores: NDArray[np.floating], targets: NDArray[np.intp]) -> float:
    """The temperature in [0.001, 1000] with the lowest log-loss of softmax(scores / temperature).

    Few rows, or rows that the model gets all right, would make it ever surer: a prior draws the temperature
    towards 1, as strongly as a handful of rows.
    """

    def log_loss(log_temperature: float) -> float:
        logs = log_softmax(scores / np.exp(log_temperature))
        return float(-logs[np.arange(len(targets)), targets].sum()) + PRIOR_ROWS * log_temperature**2

    from scipy.optimize import minimize_scalar  # noqa: PLC0415  only training fits

    bound = np.log(1000)
    return float(np.exp(minimize_scalar(log_loss, bounds=(-bound, bound), method="bounded").x))


def calibration_error(
    confidence: Array, right: NDArray[np.bool_], bins: int = 15, *, weights: Array | None = None
) -> float:
    """Expected calibration error over `bins` bins of equal mass: mean |accuracy - confidence|, in [0, 1].

    With `weights` a row counts for so many, in its bin and as part of all.
    """
    order = np.argsort(confidence, kind="stable")
    if not len(order):
        return 0.0
    mass = np.ones(len(order)) if weights is None else weights
    gaps = [
        abs(float((mass[part] * (right[part] - confidence[part])).sum()))
        for part in np.array_split(order, min(bins, len(order)))
    ]
    return float(sum(gaps) / mass.sum())


def calibration_error_by_chance(
    confidence: Array, *, certainty: float, resamples: int, random: np.random.Generator
) -> float:
    """The calibration error that a perfectly calibrated model stays below on so few rows with `certainty`.

    Consistency resampling (J. Bröcker, L. Smith, Increasing the Reliability of Reliability Diagrams, 2007): rows of
    this confidence are right as often as it says, drawn again and again.
    """
    drawn = [calibration_error(confidence, random.random(len(confidence)) < confidence) for _ in range(resamples)]
    return float(np.quantile(drawn, certainty))


def lowest_threshold(
    confidence: Array, right: NDArray[np.bool_], accuracy: float, *, certainty: float | None = None
) -> float | None:
    """The lowest confidence from which on at least `accuracy` of these rows are right; None: there is none.

    With a `certainty`, not the share of right rows counts but its lower bound (Clopper and Pearson, 1934): few
    rows promise nothing. Rows of equal confidence stand or fall together.
    """
    from scipy.special import betaincinv  # noqa: PLC0415  only training asks

    order = np.argsort(-confidence, kind="stable")
    hits, counts = np.cumsum(right[order]), np.arange(1, len(order) + 1)
    if certainty is None:
        accuracy_so_far = hits / counts
    else:
        accuracy_so_far = np.where(hits > 0, betaincinv(np.maximum(hits, 1), counts - hits + 1, 1 - certainty), 0.0)
    return _lowest(confidence[order], accuracy_so_far >= accuracy)


def lowest_threshold_by_cost(confidence: Array, costs: Array, limit: float, *, certainty: float) -> float | None:
    """The lowest confidence from which on these rows cost at most `limit` on average; None: there is none.

    `costs` are at least 0, and the largest says how far chance may reach: the mean is held against the bounds of
    Hoeffding and Bentkus (as in S. Bates et al., Distribution-Free, Risk-Controlling Prediction Sets,
    arXiv:2101.02703).
    """
    from scipy.special import bdtr, rel_entr  # noqa: PLC0415

    largest = max(float(costs.max(initial=0.0)), limit)
    order = np.argsort(-confidence, kind="stable")
    counts = np.arange(1, len(order) + 1)
    total, share = np.cumsum(costs[order] / largest), limit / largest
    mean = np.minimum(total / counts, share)
    hoeffding = np.exp(-counts * (rel_entr(mean, share) + rel_entr(1 - mean, 1 - share)))
    bentkus = np.e * bdtr(np.ceil(total), counts, share)
    return _lowest(confidence[order], np.minimum(hoeffding, bentkus) <= 1 - certainty)


def _lowest(falling: Array, good: NDArray[np.bool_]) -> float | None:
    """The last of the falling values that is good; equal values stand or fall together."""
    last_of_equals = np.append(falling[1:] < falling[:-1], True)
    places = np.flatnonzero(good & last_of_equals[: len(falling)])
    return float(falling[places[-1]]) if len(places) else None

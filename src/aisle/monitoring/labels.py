"""How good served predictions are: from what people said of them later, and without that, from how sure they were.

People do not look at a random sample: what a model is unsure of is reviewed first. So accuracy and F1 are estimated
for each decision (accept, review) by itself and joined by how many predictions had it. Of a decision that nobody
looked at nothing is known: it counts with its mean confidence, and anything from 0 to 1 is in the interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle.model.calibration import calibration_error
from aisle.model.reference import Reference
from aisle.store.predictions import Decided, Label

Array = NDArray[np.float64]
Integers = NDArray[np.intp]

Z = 1.959964
"""Of a two-sided interval of 95 %."""
SMALLEST = 1e-12
FEWEST_LABELS = 10
"""Of fewer no F1 and no calibration error are told."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Labelled:
    """What the labels say of all predictions of a time, those without a label too.

    `labels` counts them by decision, `predictions` what was predicted; `weighted_f1` and `calibration_error` are None
    where there are too few labels.
    """

    labels: Mapping[str, int]
    predictions: Mapping[str, int]
    accuracy: Interval
    weighted_f1: Interval | None
    calibration_error: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def from_labels(labels: Sequence[Label], decided: Mapping[str, Decided]) -> Labelled | None:
    """`decided`: the predictions by decision, with a label or without; `labels` are among them.

    None without a label.
    """
    if not labels:
        return None
    decisions = np.array([one.decision for one in labels])
    right = np.array([one.predicted == one.type_code for one in labels])
    counts = {name: int((decisions == name).sum()) for name in sorted({*decisions.tolist(), *decided})}
    totals = {name: max(decided[name].count if name in decided else 0, count) for name, count in counts.items()}
    shares = {name: total / sum(totals.values()) for name, total in totals.items()}
    parts = [
        _wilson(right[decisions == name]) if count else Interval(decided[name].confidence, 0.0, 1.0)
        for name, count in counts.items()
    ]
    weights = np.array([shares[name] / counts[name] for name in decisions.tolist()])
    enough = len(labels) >= FEWEST_LABELS
    confidence = np.array([one.confidence for one in labels])
    return Labelled(
        labels=counts,
        predictions=totals,
        accuracy=_joined(parts, list(shares.values())),
        weighted_f1=_weighted_f1(labels, decisions, weights) if enough else None,
        calibration_error=calibration_error(confidence, right, weights=weights) if enough else None,
    )


def from_confidence(confidence: Sequence[float], reference: Reference) -> Interval | None:
    """The accuracy of unlabelled products: how sure the model is of them, corrected by how far off that was.

    The mean confidence less the gap that it had on the reference's products (D. Guillory et al., Predicting with
    Confidence on Unseen Distributions, arXiv:2107.03315). It holds while confidence means what it meant there; under
    drift it is a hint, and too high as a rule. None without products or reference.
    """
    if not len(confidence) or not len(reference):
        return None
    sure = np.asarray(confidence, dtype=np.float64)
    known = reference.rows.numbers["confidence"].astype(np.float64)
    gaps = known - reference.right
    value = sure.mean() - gaps.mean()
    error = np.sqrt((sure * (1 - sure)).mean() / len(sure) + gaps.var() / len(gaps))
    low, value, high = np.clip([value - Z * error, value, value + Z * error], 0, 1).tolist()
    return Interval(value, low, high)


def _wilson(right: NDArray[np.bool_]) -> Interval:
    """E. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927."""
    n, share = len(right), float(right.mean())
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * (share * (1 - share) / n + Z**2 / (4 * n**2)) ** 0.5
    return Interval(share, max(centre - half, 0.0), min(centre + half, 1.0))


def _joined(parts: Sequence[Interval], shares: Sequence[float]) -> Interval:
    """Intervals of parts to one of the whole, by MOVER (G. Zou and A. Donner, Statistics in Medicine, 2008)."""
    value = sum(share * one.value for share, one in zip(shares, parts, strict=True))
    below = sum((share * (one.value - one.low)) ** 2 for share, one in zip(shares, parts, strict=True)) ** 0.5
    above = sum((share * (one.high - one.value)) ** 2 for share, one in zip(shares, parts, strict=True)) ** 0.5
    return Interval(value, max(value - below, 0.0), min(value + above, 1.0))


def _weighted_f1(labels: Sequence[Label], decisions: NDArray[np.str_], weights: Array) -> Interval:
    """By the delta method: what each label moves the figure by, and how that varies within its decision.

    Resampling comes to the same and takes thirty times as long, too long for a page.
    """
    codes = sorted({code for one in labels for code in (one.predicted, one.type_code)})
    column = {code: place for place, code in enumerate(codes)}
    true = np.array([column[one.type_code] for one in labels], dtype=np.intp)
    guessed = np.array([column[one.predicted] for one in labels], dtype=np.intp)
    right, total = true == guessed, weights.sum()

    def sums(of: Integers, mass: Array) -> Array:
        return np.bincount(of, mass, len(codes)).astype(np.float64)

    rows, hits = sums(true, weights), sums(true, weights * right)
    both = np.maximum(rows + sums(guessed, weights), SMALLEST)
    f1 = 2 * hits / both
    value = float((f1 * rows).sum() / total)
    per_row, per_both, per_hit = f1 / total, -f1 * rows / both / total, 2 * rows / both / total
    moved = weights * (per_row[true] + per_both[true] + per_both[guessed] + per_hit[true] * right)
    variances = [moved[decisions == name].var() * (decisions == name).sum() for name in np.unique(decisions)]
    error = float(np.sqrt(sum(variances)))
    return Interval(value, max(value - Z * error, 0.0), min(value + Z * error, 1.0))

"""How far chance alone may have moved a figure: 95 % intervals by the bootstrap over products.

The products are drawn again and again with replacement, and each figure is computed of each draw (B. Efron and R.
Tibshirani, An Introduction to the Bootstrap, 1993). Whole numbers are counted, so that the
intervals are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle.model.calibration import Array

RESAMPLES = 500
PARTS = (2.5, 97.5)


def intervals(
    targets: NDArray[np.intp], guesses: NDArray[np.intp], codes: Sequence[str], *, seed: int = 0, digits: int = 4
) -> dict[str, Any]:
    """`accuracy`, `weighted_f1`, `macro_f1` and, in `per_type`, F1 by code: each as [low, high].

    `targets` and `guesses` are columns, as in `evaluate.measure`; a draw without a type says nothing of it.
    """
    chance = np.random.default_rng(seed)
    labels = np.unique(targets)
    drawn = [
        _figures(targets[rows], guesses[rows], labels, len(codes))
        for rows in (chance.integers(0, len(targets), len(targets)) for _ in range(RESAMPLES))
    ]
    low, high = np.nanpercentile(np.stack(drawn), PARTS, axis=0)
    both = [[round(float(one), digits), round(float(other), digits)] for one, other in zip(low, high, strict=True)]
    names = [codes[label] if label >= 0 else "unknown" for label in labels]
    return {
        "accuracy": both[0],
        "weighted_f1": both[1],
        "macro_f1": both[2],
        "per_type": dict(zip(names, both[3:], strict=True)),
    }


def _figures(targets: NDArray[np.intp], guesses: NDArray[np.intp], labels: NDArray[np.intp], types: int) -> Array:
    """Accuracy, weighted and macro F1, and F1 of each label: NaN where the draw has none of it.

    -1, a type that is not known, is counted at the end.
    """
    hits = np.bincount(targets[targets == guesses], minlength=types + 1)[labels]
    true = np.bincount(targets % (types + 1), minlength=types + 1)[labels]
    said = np.bincount(guesses, minlength=types + 1)[labels]
    f1 = np.where(true > 0, 2 * hits / np.maximum(true + said, 1), np.nan)
    there = true > 0
    weighted = (f1[there] * true[there]).sum() / len(targets)
    return np.array([hits.sum() / len(targets), weighted, f1[there].mean(), *f1])

"""What a model of an earlier table of types says, in the types of today."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aisle.catalog import TypeChanges
from aisle.model.calibration import Array


def in_types_of_today(
    probabilities: Array, codes: Sequence[str], changes: TypeChanges
) -> tuple[Array, tuple[str, ...]]:
    """n x types `probabilities` of `codes` as those of the types that these are today, and their codes.

    What became one type adds up. What fell away is left out and the rest sums to 1 again: how likely the others are,
    given that it is one of them. A model all of whose types fell away says what it said: nothing of today.
    """
    today = [changes.now(code) for code in codes]
    kept = tuple(dict.fromkeys(code for code in today if code is not None))
    if not kept or today == list(codes):
        return probabilities, tuple(codes)
    column = {code: index for index, code in enumerate(kept)}
    mapped = np.zeros((len(probabilities), len(kept)))
    for index, now in enumerate(today):
        if now is not None:
            mapped[:, column[now]] += probabilities[:, index]
    if None in today:
        sums = mapped.sum(axis=1, keepdims=True)
        mapped = np.divide(mapped, sums, out=np.full_like(mapped, 1 / len(kept)), where=sums > 0)
    return mapped, kept

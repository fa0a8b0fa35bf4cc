"""Two samples, many features: are they from one distribution? A permutation test that accounts for its many looks.

If they are, it says nothing of a row which of the two it is in. So rows are dealt to the two samples anew a thousand
times, all features of a row together, and every feature's difference is compared with what chance makes of it. The
p-values are adjusted by the smallest p-value of all features in each deal
(P. Westfall and S. Young, Resampling-Based Multiple Testing, 1993, step-down minP): at most `alpha` of the times that
nothing has changed is any of them below `alpha`, whatever depends on what and however large the samples are.

A feature is a set of columns that are 0 or 1, so that all deals are counted by one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

FEWEST_ROWS = 10
"""Of fewer rows that have the feature in one of the samples nothing is said of it."""
DEALS_FOR_BIAS = 200
SMALLEST = 1e-12


@dataclass(frozen=True, slots=True)
class Feature:
    """`columns` is n x columns, a row without the feature has no 1.

    The columns are `parts` sets of equal size of which a row has one each (the bins of a number), or, `free`, each of
    them is or is not (the words of a text).
    """

    name: str
    columns: Flags
    observed: Flags
    parts: int = 1
    free: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a feature is apart in two samples.

    `effect` is the Jensen-Shannon distance, 0 (same) to 1 (nothing in common), less what chance makes it on average;
    of several parts, of the one that is farthest apart.
    """

    effect: float
    p_value: float
    adjusted_p_value: float


def differences(features: Sequence[Feature], first: int, *, deals: int, seed: int) -> list[Difference]:
    """Compare the first `first` rows with the others, feature by feature."""
    if not features:
        return []
    members = _members(len(features[0].observed), first, deals, np.random.default_rng(seed))
    counted = [_Counts.of(*one) for one in _count(features, members)]
    statistics, effects = [one.statistic() for one in counted], [one.effect() for one in counted]
    p_values = np.stack([_p_values(one) for one in statistics], axis=1)  # deals x features
    adjusted = _step_down(p_values)
    return [
        Difference(float(effect), float(p_value), float(one))
        for effect, p_value, one in zip(effects, p_values[0], adjusted, strict=True)
    ]


def binned(values: NDArray[np.floating], bins: int) -> Flags:
    """n x bins of about equal mass, by rank; equal values share a bin, NaN has none."""
    found = np.zeros((len(values), bins), dtype=bool)
    here = np.flatnonzero(~np.isnan(values))
    _, places, counts = np.unique(values[here], return_inverse=True, return_counts=True)
    middle = (np.cumsum(counts) - counts / 2) / max(len(here), 1)
    found[here, np.minimum((middle[places] * bins).astype(int), bins - 1)] = True
    return found


def one_of(names: Sequence[str], *, fewest: int) -> tuple[tuple[str, ...], Flags]:
    """The names that occur, and n x names: which one? Rare names share the last column; "" has none."""
    values = np.array(names, dtype=np.str_)
    found, counts = np.unique(values[values != ""], return_counts=True)
    frequent = found[counts >= fewest]
    flags = values[:, None] == frequent[None, :]
    other = (values != "") & ~flags.any(axis=1)
    if not other.any():
        return tuple(frequent.tolist()), flags
    return (*frequent.tolist(), OTHER), np.hstack([flags, other[:, None]])


OTHER = "other"


def _members(rows: int, first: int, deals: int, chance: np.random.Generator) -> NDArray[np.float32]:
    """1 + deals x rows: 1 where the row is in the first sample; as they are, and then as they are dealt."""
    members = np.zeros((1 + deals, rows), dtype=np.float32)
    members[0, :first] = 1
    for deal in range(1, 1 + deals):
        members[deal, chance.permutation(rows)[:first]] = 1
    return members


def _count(
    features: Sequence[Feature], members: NDArray[np.float32]
) -> Iterator[tuple[Feature, NDArray[np.intp], Array, Array]]:
    """Of each feature the columns that have a one; and deals x (rows that have it, ones in each of those columns) of
    the first sample, and of both. All in one product of matrices."""
    used = [np.flatnonzero(one.columns.any(axis=0)) for one in features]
    blocks = [
        np.hstack([one.observed[:, None], one.columns[:, columns]])
        for one, columns in zip(features, used, strict=True)
    ]
    together = np.hstack(blocks).astype(np.float32)
    counts, totals = (members @ together).astype(np.float64), together.sum(axis=0, dtype=np.float64)
    end = 0
    for feature, columns, block in zip(features, used, blocks, strict=True):
        begin, end = end, end + block.shape[1]
        yield feature, columns, counts[:, begin:end], totals[begin:end]


@dataclass(frozen=True, slots=True)
class _Counts:
    """Of one feature: how many rows, and how many ones in each column, the samples have, deal by deal."""

    feature: Feature
    rows: tuple[Array, Array]  # deals x 1
    ones: tuple[Array, Array]  # deals x columns
    starts: NDArray[np.intp]  # the first column of each part

    @classmethod
    def of(cls, feature: Feature, columns: NDArray[np.intp], first: Array, both: Array) -> _Counts:
        part_of = columns * feature.parts // max(feature.columns.shape[1], 1)
        starts = np.unique(part_of, return_index=True)[1]
        second = both - first
        return cls(feature, (first[:, :1], second[:, :1]), (first[:, 1:], second[:, 1:]), starts)

    def statistic(self) -> Array:
        """deals: chi-squared, by Pearson; of free columns, of each by itself, summed."""
        (here, there), (ones, others) = self.rows, self.ones
        total = here + there
        share = (ones + others) / np.maximum(total, 1)
        spread = share * (1 - share) if self.feature.free else share
        gap = ones / np.maximum(here, 1) - others / np.maximum(there, 1)
        terms = np.divide(gap**2, spread, out=np.zeros_like(gap), where=spread > 0)
        return np.where(self._enough(), terms.sum(axis=1) * (here * there / np.maximum(total, 1))[:, 0], 0.0)

    def effect(self) -> float:
        """The distance as the samples are; of several parts, of the one that is farthest apart."""
        divergence = np.where(self._enough()[: 1 + DEALS_FOR_BIAS], self._divergence(), 0.0)
        return float(np.sqrt(max(divergence[0] - divergence[1:].mean(), 0.0)))

    def _enough(self) -> Flags:
        enough: Flags = (np.minimum(*self.rows) >= FEWEST_ROWS)[:, 0]
        return enough

    def _divergence(self) -> Array:
        """The first deals: Jensen-Shannon, base 2, the largest of all parts; free columns are one distribution."""
        ones = [one[: 1 + DEALS_FOR_BIAS] for one in self.ones]
        shares = [one / np.maximum(one.sum(axis=1, keepdims=True) / self.feature.parts, 1) for one in ones]
        middle = np.maximum((shares[0] + shares[1]) / 2, SMALLEST)
        terms = sum(one * np.log2(np.maximum(one, SMALLEST) / middle) for one in shares) / 2
        return np.add.reduceat(terms, self.starts, axis=1).max(axis=1) if len(self.starts) else np.zeros(len(terms))


def _p_values(statistics: Array) -> Array:
    """deals: the share of deals, itself included, with a statistic at least as large."""
    below = np.searchsorted(np.sort(statistics), statistics, side="left")
    return (len(statistics) - below) / len(statistics)


def _step_down(p_values: Array) -> Array:
    """features: adjusted for all the features whose own p-value is not smaller."""
    adjusted = np.empty(p_values.shape[1])
    largest = 0.0
    order = np.argsort(p_values[0], kind="stable")
    for place, feature in enumerate(order):
        smallest = p_values[:, order[place:]].min(axis=1)
        largest = max(largest, float((smallest <= p_values[0, feature]).mean()))
        adjusted[feature] = largest
    return adjusted

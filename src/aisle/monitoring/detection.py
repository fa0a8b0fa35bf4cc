"""Drift: is a window of served products from where the reference is from, feature by feature?

A feature raises an alarm where chance hardly explains how far it has moved (`permutation.py`) and it has moved so far
that it matters: in a large window everything differs a little.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from aisle.model.classifier import DESCRIPTION, TITLE
from aisle.model.reference import Array, Observations, Reference
from aisle.monitoring.permutation import Feature, binned, differences, one_of

Group = Literal["text", "image", "predictions"]
GROUPS: tuple[Group, ...] = get_args(Group)

FEWEST_PRODUCTS = 100
"""A smaller window or reference says too little."""
FEWEST_OF_A_NAME = 5
"""Rarer languages and types are counted together."""


@dataclass(frozen=True, slots=True)
class Options:
    """`alpha`: how often at most an undrifted window raises any alarm; `least_effect`: what matters, in [0, 1]."""

    alpha: float = 0.05
    least_effect: float = 0.1
    deals: int = 999
    bins: int = 10
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Moved:
    """One feature: how far the window is from the reference, and how likely chance alone would bring it so far."""

    name: str
    group: Group
    effect: float
    p_value: float
    adjusted_p_value: float
    alarm: bool


@dataclass(frozen=True, slots=True)
class Drift:
    """What was found; `too_few` says why nothing was compared. `unusual`: of each product of the window, how much
    more it is like the window than like the reference in what moved.
    """

    window_products: int
    reference_products: int
    features: tuple[Moved, ...] = ()
    too_few: str = ""
    unusual: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), compare=False)

    @property
    def alarms(self) -> tuple[Moved, ...]:
        """The largest effect first."""
        return tuple(sorted((one for one in self.features if one.alarm), key=lambda one: -one.effect))

    @property
    def detected(self) -> bool:
        return any(one.alarm for one in self.features)

    def as_dict(self) -> dict[str, Any]:
        return {
            "detected": self.detected,
            "alarms": [one.name for one in self.alarms],
            "window_products": self.window_products,
            "reference_products": self.reference_products,
            "too_few": self.too_few,
            "features": [asdict(one) for one in self.features],
        }


def detect(
    reference: Reference,
    window: Observations,
    options: Options = Options(),
    *,
    groups: Collection[Group] = GROUPS,
) -> Drift:
    """Compare a window with the reference, in these groups of features. The same input gives the same answer."""
    for name, count in (("window", len(window)), ("reference", len(reference))):
        if count < FEWEST_PRODUCTS:
            few = f"the {name} has only {count} products, {FEWEST_PRODUCTS} are the least to compare"
            return Drift(len(window), len(reference), too_few=few)
    features = [one for one in features_of(window, reference, options.bins) if one[0] in groups]
    found = differences([one for _, one in features], len(window), deals=options.deals, seed=options.seed)
    moved = tuple(
        Moved(
            one.name,
            group,
            round(difference.effect, 4),
            round(difference.p_value, 4),
            round(difference.adjusted_p_value, 4),
            difference.adjusted_p_value < options.alpha and difference.effect >= options.least_effect,
        )
        for (group, one), difference in zip(features, found, strict=True)
    )
    alarmed = {one.name for one in moved if one.alarm} or {one.name for one in moved}
    unusual = _unusual([one for _, one in features if one.name in alarmed], len(window))
    return Drift(len(window), len(reference), moved, unusual=unusual)


def feature_names(reference: Reference) -> list[str]:
    """What is compared with a reference, whatever the window."""
    return [one.name for _, one in features_of(reference.rows, reference, Options().bins)]


def features_of(window: Observations, reference: Reference, bins: int) -> Iterator[tuple[Group, Feature]]:
    """What is compared: all rows of the window, and then those of the reference."""
    both = _Columns(window.joined(reference.rows), bins)
    for part in (TITLE, DESCRIPTION):
        yield "text", both.missing(f"{part}_missing", both.number(f"{part}_length"))
        yield "text", both.numeric(f"{part}_length", both.number(f"{part}_length"))
        yield "text", both.named(f"{part}_language")
        if part in reference.words:
            yield "text", both.words(f"{part}_words", part)
            yield "text", both.numeric(f"{part}_unknown_words", both.number(f"{part}_unknown"))
    if reference.axes is not None:
        width, height = both.number("width"), both.number("height")
        yield "image", both.missing("image_missing", np.where(both.number("has_image") > 0, 0, np.nan))
        yield "image", both.numeric("image_size", np.maximum(width, height))
        yield "image", both.numeric("image_shape", width / height)
        yield "image", both.numeric("image_brightness", both.number("brightness"))
        yield "image", both.numeric("image_saturation", both.number("saturation"))
        yield "image", both.embedding("image_embedding")
    yield "predictions", both.named("predicted")
    yield "predictions", both.numeric("confidence", both.number("confidence"))


class _Columns:
    """Features of all products, those of the window and then those of the reference."""

    def __init__(self, products: Observations, bins: int) -> None:
        self._products = products
        self._bins = bins

    def number(self, name: str) -> Array:
        return self._products.numbers[name]

    def missing(self, name: str, values: Array) -> Feature:
        gone = np.isnan(values)
        return Feature(name, np.stack([gone, ~gone], axis=1), np.ones(len(gone), dtype=bool))

    def numeric(self, name: str, values: Array) -> Feature:
        return Feature(name, binned(values, self._bins), ~np.isnan(values))

    def named(self, name: str) -> Feature:
        _, columns = one_of(self._products.names[name], fewest=FEWEST_OF_A_NAME)
        return Feature(name, columns, columns.sum(axis=1) > 0)

    def words(self, name: str, part: str) -> Feature:
        """Of the texts that are there; a text without a frequent word is a column of its own."""
        there = ~np.isnan(self.number(f"{part}_length"))
        words = self._products.words[part]
        none = there & ~words.any(axis=1)
        return Feature(name, np.hstack([words, none[:, None]]), there, free=True)

    def embedding(self, name: str) -> Feature:
        values = self._products.components
        parts = [binned(values[:, part], self._bins) for part in range(values.shape[1])]
        return Feature(name, np.hstack(parts), ~np.isnan(values.sum(axis=1)), parts=len(parts))


def _unusual(features: Sequence[Feature], first: int) -> NDArray[np.float64]:
    """first: the mean over features of log(share in the window / share in the reference) of what the product has."""
    found = np.zeros((len(features), first))
    for place, one in enumerate(features):
        here, there = one.columns[:first], one.columns[first:]
        shares = [(part.sum(axis=0) + 0.5) / (part.sum() / max(one.parts, 1) + 1) for part in (here, there)]
        weight = np.log(shares[0] / shares[1])
        found[place] = here @ weight / np.maximum(here.sum(axis=1), 1)
    return found.mean(axis=0) if len(features) else np.zeros(first)

"""What there is to observe of products that a model answered for: the same way for the reference and for a window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aisle.catalog import ImageTraits
from aisle.data.language import languages_of
from aisle.inputs.text import clean
from aisle.model.classifier import DESCRIPTION, TITLE
from aisle.model.reference import Array, Observations, Words

PREDICTED = "predicted"


@dataclass(frozen=True, slots=True)
class Answered:
    """One product and what the model said. `traits` is None where no model looked at an image."""

    title: str
    description: str
    has_image: bool
    traits: ImageTraits | None
    predicted: str
    confidence: float


def observe(products: Sequence[Answered], words: Mapping[str, Words], components: int) -> Observations:
    """By the `words` of title and description that a model's training knew, and so many image components."""
    texts = {
        TITLE: [clean(one.title) for one in products],
        DESCRIPTION: [clean(one.description) for one in products],
    }
    traits = [one.traits for one in products]
    return Observations(
        numbers={
            **{f"{field}_length": _lengths(texts[field]) for field in texts},
            **{f"{field}_unknown": known.unknown_in(texts[field]) for field, known in words.items()},
            "has_image": _column([float(one.has_image) for one in products]),
            "width": _column([_nothing if one is None else one.width for one in traits]),
            "height": _column([_nothing if one is None else one.height for one in traits]),
            "brightness": _column([_nothing if one is None else one.brightness for one in traits]),
            "saturation": _column([_nothing if one is None else one.saturation for one in traits]),
            "confidence": _column([one.confidence for one in products]),
        },
        names={
            **{f"{field}_language": tuple(languages_of(texts[field])) for field in texts},
            PREDICTED: tuple(one.predicted for one in products),
        },
        words={field: known.in_texts(texts[field]) for field, known in words.items()},
        components=_components(traits, components),
    )


_nothing = float("nan")


def _column(values: Sequence[float]) -> Array:
    return np.array(values, dtype=np.float32)


def _lengths(texts: Sequence[str]) -> Array:
    return _column([len(text) or _nothing for text in texts])


def _components(traits: Sequence[ImageTraits | None], components: int) -> Array:
    """n x components; a bundle of other axes, or none, leaves nothing to compare."""
    found = np.full((len(traits), components), np.nan, dtype=np.float32)
    for row, one in enumerate(traits):
        if one is not None and len(one.components) == components:
            found[row] = one.components
    return found

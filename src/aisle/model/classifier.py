"""From clean texts and image features to the probability of each type: the part that training and serving share.

Every model answers for the products it can look at, its scores are calibrated, and the fusion joins them. What
a row gets does not depend on the other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle.model.blend import AnyTextModel
from aisle.model.calibration import Array, calibrated
from aisle.model.fusion import Fusion, Present
from aisle.model.image import DenseHead, Features
from aisle.model.text import Scores

TITLE, DESCRIPTION, TEXT, IMAGE = "title", "description", "text", "image"
LOOKS_AT: Mapping[str, frozenset[str]] = {
    TITLE: frozenset({TITLE}),
    DESCRIPTION: frozenset({DESCRIPTION}),
    TEXT: frozenset({TITLE, DESCRIPTION}),
    IMAGE: frozenset({IMAGE}),
}
"""Which parts of a product the model of a name looks at; `text` reads the title and, in the next line, the
description."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """n products after the one way in: clean texts ("" where missing) and image features (None where missing)."""

    titles: Sequence[str]
    descriptions: Sequence[str]
    features: Sequence[Features | None]

    def __len__(self) -> int:
        return len(self.titles)

    def field(self, name: str) -> Sequence[Any]:
        """What the model `name` looks at, for each product."""
        if name == TEXT:
            return [f"{title}\n{text}".strip() for title, text in zip(self.titles, self.descriptions, strict=True)]
        return {TITLE: self.titles, DESCRIPTION: self.descriptions, IMAGE: self.features}[name]

    def has(self, name: str) -> NDArray[np.bool_]:
        """n: is there something for the model `name` to look at?"""
        if name == IMAGE:
            return np.array([one is not None for one in self.features], dtype=bool)
        return np.array([bool(text) for text in self.field(name)], dtype=bool)


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a recipe by name; a catalogue without images or descriptions has fewer."""

    texts: Mapping[str, AnyTextModel]
    image: DenseHead | None

    def with_text(self, name: str, model: AnyTextModel) -> Models:
        """The same with another model of one text."""
        return Models({**self.texts, name: model}, self.image)

    def names(self) -> tuple[str, ...]:
        return (*self.texts, *([IMAGE] if self.image is not None else []))

    def present(self, inputs: Inputs) -> Present:
        return np.stack([inputs.has(name) for name in self.names()], axis=1)

    def scores(self, inputs: Inputs, types: int) -> dict[str, Scores]:
        """n x types for each model, zero in the rows that it cannot look at."""
        return {name: self._scores_of(name, inputs, types) for name in self.names()}

    def _scores_of(self, name: str, inputs: Inputs, types: int) -> Scores:
        out = np.zeros((len(inputs), types), dtype=np.float32)
        rows = np.flatnonzero(inputs.has(name))
        if len(rows):
            scorer: Callable[..., Scores] = (
                self.image.scores if name == IMAGE and self.image else self.texts[name].scores
            )
            field = inputs.field(name)
            out[rows] = scorer([field[row] for row in rows.tolist()])
        return out


@dataclass(frozen=True, slots=True)
class Classifier:
    """`codes` are the types in the order of every n x types array."""

    codes: tuple[str, ...]
    models: Models
    temperatures: Mapping[str, float]
    fusion: Fusion

    def probabilities(self, inputs: Inputs) -> Array:
        """n x types, each row sums to 1; a row without anything to look at is NaN."""
        return self.fused(self.scores(inputs), inputs)

    def scores(self, inputs: Inputs) -> dict[str, Scores]:
        """What each model says, before calibration."""
        return self.models.scores(inputs, len(self.codes))

    def fused(self, scores: Mapping[str, Scores], inputs: Inputs) -> Array:
        """One answer of what the models said of `inputs`."""
        if not len(inputs):
            return np.empty((0, len(self.codes)))
        logs = calibrated(scores, self.temperatures)
        return np.exp(self.fusion.log_probabilities(logs, self.models.present(inputs)))

"""The reference that goes into a bundle, from products that the models it describes were not fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aisle.catalog import ImageTraits
from aisle.data.images import Images, map_bounded
from aisle.data.split import Side
from aisle.model.calibration import Array
from aisle.model.classifier import DESCRIPTION, TITLE, Classifier
from aisle.model.image import Features, ImageEncoder
from aisle.model.reference import Axes, Reference, Words
from aisle.training.examples import Examples, Rows, in_parts
from aisle.training.observe import Answered, observe

MOST_ROWS = 2_000
ROWS_FOR_AXES = 2_000


def build_reference(
    examples: Examples, answering: Mapping[Side, Classifier], graph: bytes | None, seed: int
) -> Reference:
    """Of at most `MOST_ROWS` products: the first side of `answering` first, the next one for what is still missing.

    Each side is answered for by a model that it was not fitted on. A row without anything to look at is left out.
    """
    chance = np.random.default_rng(seed)
    learnt = examples.rows(Side.TRAIN, graph=graph)
    words = {
        field: known for field in (TITLE, DESCRIPTION) if (known := Words.of(learnt.inputs.field(field))).frequent
    }
    axes = _axes(learnt, chance) if graph is not None else None
    answered: list[Answered] = []
    right: list[bool] = []
    for side, classifier in answering.items():
        rows = examples.rows(side, graph=graph)
        chosen = np.sort(chance.permutation(len(rows))[: MOST_ROWS - len(answered)])
        parts = in_parts(partial(_said, classifier), rows.at(chosen), examples.threads)
        probabilities = np.concatenate(parts)
        traits = _traits(examples, side, rows, chosen, graph, axes)
        usable = [place for place in range(len(chosen)) if not np.isnan(probabilities[place]).any()]
        for place in usable:
            answered.append(_answered(rows, int(chosen[place]), traits[place], probabilities[place], classifier))
            right.append(bool(probabilities[place].argmax() == rows.targets[chosen[place]]))
    components = 0 if axes is None else axes.axes.shape[1]
    return Reference(observe(answered, words, components), np.array(right, dtype=bool), words, axes)


def _said(classifier: Classifier, rows: Rows) -> Array:
    return classifier.probabilities(rows.inputs)


def _axes(learnt: Rows, chance: np.random.Generator) -> Axes | None:
    features = [one for one in learnt.inputs.features if one is not None]
    if not features:
        return None
    chosen = np.sort(chance.permutation(len(features))[:ROWS_FOR_AXES])
    return Axes.of(np.stack([features[row] for row in chosen]))


def _answered(
    rows: Rows, row: int, traits: ImageTraits | None, probabilities: Array, classifier: Classifier
) -> Answered:
    best = int(probabilities.argmax())
    inputs = rows.inputs
    return Answered(
        title=inputs.titles[row],
        description=inputs.descriptions[row],
        has_image=traits is not None,
        traits=traits,
        predicted=classifier.codes[best],
        confidence=float(probabilities[best]),
    )


def _traits(
    examples: Examples, side: Side, rows: Rows, chosen: NDArray[np.intp], graph: bytes | None, axes: Axes | None
) -> list[ImageTraits | None]:
    """Of the chosen rows' images, decoded again: their features are cached, what they look like is not."""
    images = examples.prepared.images()
    if graph is None or axes is None or images is None:
        return [None] * len(chosen)
    names, features = examples.image_names(side), rows.inputs.features
    wanted = [(names[row], features[row]) for row in chosen]
    look = partial(_look, images, ImageEncoder(graph), axes)
    return list(map_bounded(look, wanted, threads=examples.threads))


def _look(
    images: Images, encoder: ImageEncoder, axes: Axes, wanted: tuple[str | None, Features | None]
) -> ImageTraits | None:
    name, features = wanted
    if name is None or features is None:
        return None
    return replace(encoder.decode(images.read(name))[1], components=axes.along(features))

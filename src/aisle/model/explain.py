"""Why a product gets its type: the words that weighed, where in the image, and how much each model had to say.

Words are exact for linear models and what is lost without them for others; the heat map is what is lost where a part
of the image is covered (M. Zeiler, R. Fergus, Visualizing and Understanding Convolutional Networks, arXiv:1311.2901);
the weights of the models are their Shapley values (L. Shapley, A Value for n-Person Games, 1953): what each adds to
the log-probability of the type, on average over the orders in which the models could have been asked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product as combinations

import numpy as np

from aisle.catalog import Prediction, Product
from aisle.inputs.image import Pixels
from aisle.model.calibration import Array, calibrated
from aisle.model.classifier import IMAGE, Inputs
from aisle.model.image import Features
from aisle.model.neighbours import Neighbour
from aisle.model.predictor import Predictor

COARSEST, FINEST = 3, 7
COVERING_SECONDS = 0.5
"""On a slow image model the map is coarser rather than later."""


@dataclass(frozen=True, slots=True)
class Word:
    """`weight` is in log-odds of the model that read it: what is above 0 speaks for the type."""

    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why `prediction` says its first type.

    `words` are those of each text model, in their order. `heat_map` is side x side from the top left, what the
    log-probability of the image model loses when that part is covered; None without an image. `weights` of the models
    add up to how far the log-probability of the type is above that of a type drawn blindly. `neighbours` are the most
    similar products that were learnt from, the most similar first.
    """

    prediction: Prediction
    words: Mapping[str, tuple[Word, ...]]
    heat_map: Array | None
    weights: Mapping[str, float]
    neighbours: tuple[Neighbour, ...]


def explain(predictor: Predictor, product: Product, *, neighbours: int = 5, side: int | None = None) -> Explanation:
    """Raises InputError where there is nothing to classify, ImageError for an image that cannot be looked at.

    The heat map has `side` x `side` parts; by default as many as can be covered in half a second.
    """
    seen = _look(predictor, product)
    features = None if seen is None else seen.features
    [outcome] = predictor.predict([product], seen=[features])
    if not isinstance(outcome, Prediction):
        raise outcome
    inputs, _ = predictor.inputs([product], seen=[features])
    type_ = predictor.classifier.codes.index(outcome.type.code)
    known = predictor.neighbours
    return Explanation(
        prediction=outcome,
        words=_words(predictor, inputs, type_),
        heat_map=None if seen is None else _heat_map(predictor, seen, type_, side or seen.side(predictor.threads)),
        weights=_weights(predictor, inputs, type_),
        neighbours=() if known is None else known.nearest(inputs.titles[0], features, neighbours),
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """An image, its features, and in how many seconds they were computed."""

    pixels: Pixels
    features: Features
    seconds: float

    def side(self, threads: int) -> int:
        """How many parts a side of the map may have."""
        affordable = math.isqrt(int(COVERING_SECONDS * threads / max(self.seconds, 1e-6)))
        return min(max(affordable, COARSEST), FINEST)


def _look(predictor: Predictor, product: Product) -> _Seen | None:
    if predictor.encoder is None or product.image is None:
        return None
    pixels, _ = predictor.encoder.decode(product.image)
    started = time.perf_counter()
    features = predictor.encoder.encode(pixels)
    return _Seen(pixels, features, time.perf_counter() - started)


def _words(predictor: Predictor, inputs: Inputs, type_: int) -> dict[str, tuple[Word, ...]]:
    classifier = predictor.classifier
    words = {}
    for name, model in classifier.models.texts.items():
        text = inputs.field(name)[0]
        if text:
            weights = model.weights_of_words(text, type_) / classifier.temperatures[name]
            words[name] = tuple(Word(*one) for one in zip(text.split(), weights.tolist(), strict=True))
    return words


def _weights(predictor: Predictor, inputs: Inputs, type_: int) -> dict[str, float]:
    """Exact: the fusion is asked for every set of the models that could look at the product."""
    classifier = predictor.classifier
    names = classifier.models.names()
    here = np.flatnonzero(classifier.models.present(inputs)[0])
    sets = np.array(list(combinations((False, True), repeat=len(here))))
    present = np.zeros((len(sets), len(names)), dtype=bool)
    present[:, here] = sets
    logs = calibrated(classifier.scores(inputs), classifier.temperatures)
    joined = classifier.fusion.log_probabilities(
        {name: np.repeat(one, len(sets), axis=0) for name, one in logs.items()}, present
    )[:, type_]
    worth = {tuple(one): float(value) for one, value in zip(sets.tolist(), joined, strict=True)}
    worth[(False,) * len(here)] = -math.log(len(classifier.codes))
    found = {}
    for place, model in enumerate(here.tolist()):
        found[names[model]] = sum(
            math.factorial(sum(others)) * math.factorial(len(here) - sum(others) - 1) / math.factorial(len(here))
            * (worth[(*others[:place], True, *others[place + 1 :])] - worth[others])
            for others in worth if not others[place]
        )  # fmt: skip
    return found


def _heat_map(predictor: Predictor, seen: _Seen, type_: int, side: int) -> Array | None:
    """A part is covered with the mean colour of the image."""
    classifier, pixels = predictor.classifier, seen.pixels
    head = classifier.models.image
    if head is None:
        return None
    edges = np.linspace(0, len(pixels), side + 1).round().astype(int)
    colour = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    covered = []
    for row, column in combinations(range(side), repeat=2):
        one = pixels.copy()
        one[edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = colour
        covered.append(one)
    scores = head.scores([seen.features, *predictor.encode(covered)])
    logs = calibrated({IMAGE: scores}, classifier.temperatures)[IMAGE][:, type_]
    lost: Array = (logs[0] - logs[1:]).reshape(side, side)
    return lost

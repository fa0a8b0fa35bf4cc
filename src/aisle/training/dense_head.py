"""A dense head on image features: one hidden layer for each network of the encoder, learnt from thousands of images.

Images and what is said of them are mixed in pairs (H. Zhang et al., mixup: Beyond Empirical Risk Minimization,
arXiv:1710.09412), labels smoothed, inputs and units dropped: without all that, a layer on frozen features learns ten
thousand images by heart. The networks' scores are averaged rather than learnt together, which would let one explain
away what the other sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag
from threadpoolctl import threadpool_limits

from aisle.model.image import DenseHead, Features
from aisle.training.recipes import DenseTraining

FIRST_MOMENT, SECOND_MOMENT, SMALLEST = 0.9, 0.999, 1e-8
WARM_UP = 0.1
LEAST_DEVIATION = 0.02
"""Of a feature, when it is standardised: what hardly ever changes is not blown up."""


def fit_dense_head(
    features: Features, shares: Features, weights: NDArray[np.floating], how: DenseTraining, seed: int
) -> dict[str, Features]:
    """What `DenseHead.from_arrays` reads, for n rows of features, of as many parts as there are networks.

    `shares` (n x types) says what each row is, and sums to 1; a row counts `weights` to the power of `weight_power`.
    A type that no row is gets a bias of minus infinity: the head has no opinion on it.
    """
    counts = (weights**how.weight_power).astype(np.float32)
    shares = shares.astype(np.float32)

    def fit(number: int, part: Features) -> _Part:
        return _fit(part, shares, counts, how, np.random.default_rng([seed, number]))

    # A product of matrices on several threads adds up in another order: one thread each gives the same everywhere.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor() as pool:
        parts = list(pool.map(fit, count(), np.split(features, len(how.networks), axis=1)))
    bias: Features = np.mean([one.bias for one in parts], axis=0, dtype=np.float32)
    bias[shares.sum(axis=0) == 0] = -np.inf
    joined = DenseHead(
        weights=(np.concatenate([one.weights for one in parts]) / len(parts)).astype(np.float32),
        bias=bias,
        hidden_weights=block_diag(*(one.hidden_weights for one in parts)).astype(np.float32),
        hidden_bias=np.concatenate([one.hidden_bias for one in parts]),
    )
    return joined.arrays()


@dataclass
class _Part:
    hidden_weights: Features
    hidden_bias: Features
    weights: Features
    bias: Features


def _fit(
    features: Features, shares: Features, counts: Features, how: DenseTraining, chance: np.random.Generator
) -> _Part:
    """By AdamW (I. Loshchilov, F. Hutter, arXiv:1711.05101), the rate rising and then falling along a cosine."""
    mean, deviation = features.mean(axis=0), features.std(axis=0) + np.float32(LEAST_DEVIATION)
    width, types = features.shape[1], shares.shape[1]
    shares = (1 - how.smoothing) * shares + np.float32(how.smoothing / types)
    learnt = [
        _normal(chance, (width, how.units), 2 / width),
        np.zeros(how.units, np.float32),
        _normal(chance, (how.units, types), 1 / how.units),
        np.zeros(types, np.float32),
    ]
    batches = max(1, round(len(features) / how.batch))
    optimiser = _AdamW(learnt, how.rate, how.decay, steps=how.epochs * batches)
    for _ in range(how.epochs):
        for rows in np.array_split(chance.permutation(len(features)), batches):
            x = (features[rows] - mean) / deviation
            wanted = shares[rows] * counts[rows, None]
            x, wanted = _mixed(x, wanted, how.mixup, chance)
            optimiser.step(_gradients(learnt, x, wanted, how, chance))
    hidden_weights, hidden_bias, weights, bias = learnt
    scaled = hidden_weights / deviation[:, None]
    return _Part(scaled, hidden_bias - mean @ scaled, weights, bias)


def _normal(chance: np.random.Generator, shape: tuple[int, int], variance: float) -> Features:
    drawn: Features = (chance.standard_normal(shape) * np.sqrt(variance)).astype(np.float32)
    return drawn


def _mixed(x: Features, wanted: Features, mixup: float, chance: np.random.Generator) -> tuple[Features, Features]:
    """Each row with a smaller share of another one, in what it is and in what is wanted of it."""
    drawn = chance.beta(mixup, mixup) if mixup > 0 else 1.0
    share = np.float32(max(drawn, 1 - drawn))
    return share * x + (1 - share) * x[::-1], share * wanted + (1 - share) * wanted[::-1]


def _gradients(
    learnt: list[Features], x: Features, wanted: Features, how: DenseTraining, chance: np.random.Generator
) -> Iterator[Features]:
    """Of the cross-entropy with `wanted`, per row, in the order of `learnt`."""
    hidden_weights, hidden_bias, weights, bias = learnt
    x = x * _kept(x.shape, how.input_dropout, chance)
    before = x @ hidden_weights + hidden_bias
    gate = _kept(before.shape, how.dropout, chance) * (before > 0)
    hidden = before * gate
    scores = hidden @ weights + bias
    answers = np.exp(scores - scores.max(axis=1, keepdims=True))
    answers /= answers.sum(axis=1, keepdims=True)
    errors = (answers * wanted.sum(axis=1, keepdims=True) - wanted) / np.float32(len(x))
    of_hidden = (errors @ weights.T) * gate
    yield from (x.T @ of_hidden, of_hidden.sum(axis=0), hidden.T @ errors, errors.sum(axis=0))


def _kept(shape: tuple[int, ...], dropped: float, chance: np.random.Generator) -> Features:
    """0 for the share that is dropped, and what makes up for it for the rest."""
    return (chance.random(shape, np.float32) >= dropped).astype(np.float32) / np.float32(1 - dropped)


@dataclass
class _AdamW:
    learnt: list[Features]
    rate: float
    decay: float
    steps: int
    _done: int = 0
    _first: list[Features] = field(init=False)
    _second: list[Features] = field(init=False)

    def __post_init__(self) -> None:
        self._first = [np.zeros_like(one) for one in self.learnt]
        self._second = [np.zeros_like(one) for one in self.learnt]

    def step(self, gradients: Iterator[Features]) -> None:
        """Weights decay, biases do not."""
        self._done += 1
        rate = np.float32(self.rate * _schedule(self._done / self.steps))
        first_left, second_left = 1 - FIRST_MOMENT**self._done, 1 - SECOND_MOMENT**self._done
        for place, gradient in enumerate(gradients):
            one, first, second = self.learnt[place], self._first[place], self._second[place]
            first += np.float32(1 - FIRST_MOMENT) * (gradient - first)
            second += np.float32(1 - SECOND_MOMENT) * (gradient * gradient - second)
            if one.ndim > 1:
                one *= 1 - rate * np.float32(self.decay)
            one -= rate * (first / np.float32(first_left)) / (np.sqrt(second / np.float32(second_left)) + SMALLEST)


def _schedule(done: float) -> float:
    """The share of the rate, when this share of the steps is done."""
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 * (1 + float(np.cos(np.pi * (done - WARM_UP) / (1 - WARM_UP))))

"""Rows as `tf.data` feeds them to Keras, in an order that epoch and seed decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from aisle.inputs.image import decode
from aisle.model.sequence import WordIds
from aisle.training.examples import Rows
from aisle.training.heads import rarity
from aisle.training.recipes import LstmVgg16

Targets = NDArray[np.intp]
Weights = NDArray[np.float64]
Order = NDArray[np.intp]


def order_of(epoch: int, rows: int, seed: int) -> Order:
    return np.random.default_rng([seed, epoch]).permutation(rows)


def text_batches(words: Sequence[WordIds], targets: Targets, weights: Weights, order: Order, batch: int) -> Any:
    """Numbers of words, filled up with 0 to the longest of their batch."""
    ragged = tf.ragged.constant([words[row].tolist() for row in order.tolist()], dtype=tf.int32)
    rows = _with_labels(ragged, targets, weights, order).batch(batch)
    return rows.map(lambda some, *labels: (some.to_tensor(), *labels)).prefetch(1)


def array_batches(rows: NDArray[np.float32], targets: Targets, weights: Weights, order: Order, batch: int) -> Any:
    return _with_labels(rows[order], targets, weights, order).batch(batch).prefetch(1)


def image_batches(
    read: Callable[[int], bytes],
    size: int,
    targets: Targets,
    weights: Weights,
    order: Order,
    batch: int,
    *,
    threads: int,
) -> Any:
    """Pixels of the images that `read` gives for a row, decoded by the one way in, several at a time."""

    def pixels(row: NDArray[np.int64]) -> NDArray[np.float32]:
        return decode(read(int(row)), size).astype(np.float32)

    def decoded(row: Any, target: Any, weight: Any) -> Any:
        image = tf.numpy_function(pixels, [row], tf.float32)
        return tf.ensure_shape(image, (size, size, 3)), target, weight

    rows = _with_labels(order.astype(np.int64), targets, weights, order)
    return rows.map(decoded, num_parallel_calls=threads, deterministic=True).batch(batch).prefetch(2)


def trust(rows: Rows, recipe: LstmVgg16) -> Weights:
    """n: how far each row's label is to be trusted."""
    weights: Weights = rows.weights**recipe.weight_power
    return weights


def weights_of(rows: Rows, types: int, recipe: LstmVgg16) -> Weights:
    """n: what each row counts in training; those of rare types more."""
    return trust(rows, recipe) * rarity(rows.targets, types) ** recipe.balance


def _with_labels(rows: Any, targets: Targets, weights: Weights, order: Order) -> Any:
    labels = (targets[order].astype(np.int32), weights[order].astype(np.float32))
    return tf.data.Dataset.from_tensor_slices((rows, *labels))

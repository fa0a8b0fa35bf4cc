"""Fine-tuning a pretrained transformer encoder for product types, in JAX, on a CPU or whatever JAX finds.

Its first layers, mean of the last one's outputs over the text, a dense head (J. Devlin et al., arXiv:1810.04805); a
short warm-up, then a line down, by AdamW (I. Loshchilov, F. Hutter, arXiv:1711.05101). The embeddings of the pieces
stay as they are: of those that no title has, there would be nothing to learn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from aisle.logs import get_logger
from aisle.training.e5 import LAYER_PARTS, Pretrained
from aisle.training.heads import Targets, Weights
from aisle.training.recipes import TransformerTraining

logging.getLogger("jax").setLevel(logging.WARNING)  # it tells of every kind of chip that it does not find

Array = NDArray[np.float32]
Tree = Any
"""A nest of arrays, as JAX has them."""

LENGTHS = 8
"""Batches are padded to multiples of that: each length is compiled for once."""
BATCHES_OF_LIKE_LENGTH = 20
HEAD_RATE = 1e-3
SMOOTHING = 0.05
DECAY = 0.01
WARM_UP = 0.06
LAST_RATE = 0.02
LONGEST_STEP = 1.0
LEAST_WEIGHT = 1e-6
MEAN_KEEPS, SQUARE_KEEPS, SMALLEST = 0.9, 0.999, 1e-8
"""Of AdamW, as its authors have them."""
HEAD = "head"
NEVER = -1e9


def fit_transformer(
    pretrained: Pretrained,
    pieces: Sequence[NDArray[np.int64]],
    targets: Targets,
    weights: Weights,
    types: int,
    how: TransformerTraining,
    seed: int,
    wanted: NDArray[np.floating] | None = None,
) -> dict[str, Array]:
    """The weights of `pretrained` that have changed, and `head.w` (width x types) and `head.b`.

    `pieces` are the numbers of each text's pieces, with those for begin and end; n `targets` are columns, unless it
    is said what is `wanted` (n x types) of each row.
    """
    chance = np.random.default_rng(seed)
    model = _Model(pretrained, how)
    seen = _seen(model, pieces, how.batch, pretrained.special.padding)
    learnt = model.beginning(types, chance)
    steps = how.epochs * -(-len(pieces) // how.batch)
    step = jax.jit(partial(_step, model, how, steps), donate_argnums=(0, 1))
    state = (jnp.zeros((), jnp.int32), *(jax.tree.map(jnp.zeros_like, learnt) for _ in range(2)))
    counts = np.asarray(weights**how.weight_power, dtype=np.float32)
    shares = np.eye(types, dtype=np.float32)[targets] if wanted is None else wanted.astype(np.float32)
    key = jax.random.key(seed, impl="unsafe_rbg")
    for epoch in range(how.epochs):
        losses = []
        for batch in _batches([len(one) for one in pieces], how.batch, chance):
            key, now = jax.random.split(key)
            x, there = _side_by_side([seen[row] for row in batch], how.batch)
            right = shares[np.resize(batch, how.batch)]
            heard = np.where(np.arange(how.batch) < len(batch), np.resize(counts[batch], how.batch), 0)
            learnt, state, loss = step(learnt, state, x, there, right, heard, now)
            losses.append(loss)
        get_logger(__name__).info("epoch", of="transformer", epoch=epoch + 1, loss=round(float(np.mean(losses)), 4))
    return model.weights(learnt)


class _Model:
    """The forward pass, in two parts: `seen` by the layers that stay as they are, and `scores` by those that learn.

    What is learnt is a tree: a dict of parts for each layer, and `head`.
    """

    def __init__(self, pretrained: Pretrained, how: TransformerTraining) -> None:
        self._heads, self._epsilon, self._dropout = pretrained.heads, pretrained.epsilon, how.dropout
        self._given = {name: jnp.asarray(weight) for name, weight in pretrained.weights.items()}
        self._kept, self._learning = range(how.kept_layers), range(how.kept_layers, how.layers)
        self._look = jax.jit(lambda x, there, part: self._layer(x, there, part, lambda x: x))

    def beginning(self, types: int, chance: np.random.Generator) -> Tree:
        width = self._given["words"].shape[1]
        head = jnp.asarray(chance.uniform(-1, 1, (width, types)) / np.sqrt(width), jnp.float32)
        layers = {str(layer): self._layer_of(layer) for layer in self._learning}
        return {**layers, HEAD: {"w": head, "b": jnp.zeros(types)}}

    def weights(self, learnt: Tree) -> dict[str, Array]:
        return {f"{tree}.{name}": np.asarray(part) for tree, parts in learnt.items() for name, part in parts.items()}

    def seen(self, numbers: Array, there: NDArray[np.bool_]) -> Array:
        """texts x pieces x width. Layer by layer: they are alike, so that one compiled program does for all."""
        x = self._given["words"][numbers] + self._given["places"][: numbers.shape[1]]
        x = self._norm(x, {name: self._given[name] for name in ("norm.w", "norm.b")}, "norm")
        for layer in self._kept:
            x = self._look(x, there, self._layer_of(layer))
        return np.asarray(x)

    def scores(self, learnt: Tree, x: Tree, there: Tree, key: Tree) -> Tree:
        """texts x types, while learning: with dropout."""
        keys = iter(jax.random.split(key, 2 * len(self._learning) + 1))
        kept = 1 - self._dropout

        def dropped(x: Tree) -> Tree:
            return jnp.where(jax.random.bernoulli(next(keys), kept, x.shape), x / kept, 0)

        for layer in self._learning:
            x = self._layer(x, there, learnt[str(layer)], dropped)
        mean = (x * there[..., None]).sum(axis=1) / there.sum(axis=1, keepdims=True)
        return dropped(mean) @ learnt[HEAD]["w"] + learnt[HEAD]["b"]

    def _layer_of(self, layer: int) -> Tree:
        return {f"{name}.{part}": self._given[f"{layer}.{name}.{part}"] for name in LAYER_PARTS for part in "wb"}

    def _layer(self, x: Tree, there: Tree, part: Tree, dropped: Callable[[Tree], Tree]) -> Tree:
        query, key, value = (self._split(self._dense(x, part, name)) for name in ("query", "key", "value"))
        alike = query @ key.swapaxes(2, 3) / np.sqrt(query.shape[-1])
        alike = alike + jnp.where(there, 0.0, NEVER)[:, None, None, :]
        seen = (jax.nn.softmax(alike) @ value).swapaxes(1, 2).reshape(x.shape)
        x = self._norm(x + dropped(self._dense(seen, part, "out")), part, "norm1")
        inner = jax.nn.gelu(self._dense(x, part, "up"), approximate=False)
        return self._norm(x + dropped(self._dense(inner, part, "down")), part, "norm2")

    def _dense(self, x: Tree, part: Tree, name: str) -> Tree:
        return x @ part[f"{name}.w"] + part[f"{name}.b"]

    def _split(self, x: Tree) -> Tree:
        """texts x heads x pieces x width of a head."""
        rows, length, width = x.shape
        return x.reshape(rows, length, self._heads, width // self._heads).swapaxes(1, 2)

    def _norm(self, x: Tree, part: Tree, name: str) -> Tree:
        centred = x - x.mean(axis=-1, keepdims=True)
        whole = centred * jax.lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + self._epsilon)
        return whole * part[f"{name}.w"] + part[f"{name}.b"]


def _step(
    model: _Model,
    how: TransformerTraining,
    steps: int,
    learnt: Tree,
    state: Tree,
    x: Tree,
    there: Tree,
    shares: Tree,
    counts: Tree,
    key: Tree,
) -> tuple[Tree, Tree, Tree]:
    def loss(learnt: Tree) -> Tree:
        logs = jax.nn.log_softmax(model.scores(learnt, x, there, key))
        wanted = (1 - SMOOTHING) * shares + SMOOTHING / logs.shape[1]
        return -((wanted * logs).sum(axis=1) * counts).sum() / jnp.maximum(counts.sum(), LEAST_WEIGHT)

    found, gradient = jax.value_and_grad(loss)(learnt)
    done, means, squares = state
    done = done + 1
    at = jnp.minimum(done / (WARM_UP * steps), jnp.maximum(LAST_RATE, 1 - (done - 1) / steps))
    length = jnp.sqrt(sum((one**2).sum() for one in jax.tree.leaves(gradient)))
    gradient = jax.tree.map(lambda one: one * jnp.minimum(1, LONGEST_STEP / (length + LEAST_WEIGHT)), gradient)
    means = jax.tree.map(lambda old, new: MEAN_KEEPS * old + (1 - MEAN_KEEPS) * new, means, gradient)
    squares = jax.tree.map(lambda old, new: SQUARE_KEEPS * old + (1 - SQUARE_KEEPS) * new**2, squares, gradient)

    def moved(weight: Tree, mean: Tree, square: Tree, rate: float) -> Tree:
        direction = mean / (1 - MEAN_KEEPS**done) / (jnp.sqrt(square / (1 - SQUARE_KEEPS**done)) + SMALLEST)
        return weight - rate * at * (direction + DECAY * weight)

    rates = {part: HEAD_RATE if part == HEAD else how.rate for part in learnt}
    learnt = {
        part: jax.tree.map(partial(moved, rate=rates[part]), learnt[part], means[part], squares[part])
        for part in learnt
    }
    return learnt, (done, means, squares), found


def _seen(model: _Model, pieces: Sequence[NDArray[np.int64]], size: int, padding: int) -> list[Array]:
    """What the layers that stay as they are make of each text: pieces x width."""
    order = np.argsort([len(one) for one in pieces], kind="stable")
    seen: list[Array] = [np.empty(0, np.float32)] * len(pieces)
    for start in range(0, len(order), size):
        rows = order[start : start + size].tolist()
        numbers, there = _side_by_side([pieces[row][:, np.newaxis] for row in rows], size)
        found = model.seen(np.where(there, numbers[..., 0], padding), there)
        for place, row in enumerate(rows):
            seen[row] = found[place, : len(pieces[row])].copy()
    return seen


def _batches(lengths: Sequence[int], size: int, chance: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """All rows in chance order; those of a batch are about as long as each other, so that little is padded."""
    order = chance.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), size * BATCHES_OF_LIKE_LENGTH):
        some = order[start : start + size * BATCHES_OF_LIKE_LENGTH]
        some = some[np.argsort(np.array(lengths)[some], kind="stable")]
        batches += [some[place : place + size] for place in range(0, len(some), size)]
    return (batches[place] for place in chance.permutation(len(batches)))


def _side_by_side(texts: Sequence[NDArray[Any]], rows: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """rows x pieces x …, and which pieces are there; of rows beyond the texts one is, so that they have a mean."""
    length = -(-max(map(len, texts)) // LENGTHS) * LENGTHS
    whole = np.zeros((rows, length, *texts[0].shape[1:]), dtype=texts[0].dtype)
    there = np.zeros((rows, length), dtype=bool)
    there[:, 0] = True
    for row, text in enumerate(texts):
        whole[row, : len(text)] = text
        there[row, : len(text)] = True
    return whole, there

"""The reference of a bundle: how products looked that it was measured on, to compare with what it serves later.

    reference.json          the frequent words of titles and descriptions; languages and predicted types, row by row
    reference.safetensors   numbers, words and image components, row by row; every word that training knew, as a hash

There is no text in it and nothing that names a product. A row is a product that no model was fitted on, so that its
confidence is what serving will see.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle.model.image import Features
from aisle.model.text import fold

Array = NDArray[np.float32]
Flags = NDArray[np.bool_]

REFERENCE_TABLE = "reference.json"
REFERENCE_ARRAYS = "reference.safetensors"
FREQUENT_WORDS = 500
FEWEST_TEXTS = 10
"""A word in fewer texts than that is not worth following."""
COMPONENTS = 16
ITERATIONS = 8


@dataclass(frozen=True, slots=True)
class Axes:
    """Where a product's image lies among the catalogue's: its features along their principal components."""

    mean: Array  # features
    axes: Array  # features x components

    @classmethod
    def of(cls, features: Array, components: int = COMPONENTS, seed: int = 0) -> Axes:
        """The directions in which n rows of features differ most; as many as the rows allow.

        By randomised subspace iteration (N. Halko, P. Martinsson and J. Tropp, Finding Structure with Randomness,
        arXiv:0909.4061): all directions would take seconds, and few are wanted.
        """
        mean = features.mean(axis=0, dtype=np.float64)
        centred = features.astype(np.float64) - mean
        components = min(components, *centred.shape)
        wide = min(2 * components, *centred.shape)
        basis = np.random.default_rng(seed).standard_normal((centred.shape[1], wide))
        for _ in range(ITERATIONS):
            basis, _ = np.linalg.qr(centred.T @ (centred @ basis))
        _, _, rotation = np.linalg.svd(centred @ basis, full_matrices=False)
        axes = (basis @ rotation.T)[:, :components]
        strongest = np.abs(axes).argmax(axis=0)
        axes = axes * np.sign(axes[strongest, np.arange(components)])  # either direction would do: choose one
        return cls(mean.astype(np.float32), np.ascontiguousarray(axes, dtype=np.float32))

    def along(self, features: Features) -> tuple[float, ...]:
        """To four digits: it is kept for every product."""
        return tuple(float(f"{one:.4g}") for one in (features - self.mean) @ self.axes)

    def of_rows(self, features: Array) -> Array:
        """n x components of n x features."""
        along: Array = ((features - self.mean) @ self.axes).astype(np.float32)
        return along


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one field of the products that were learnt from: the frequent ones, and all of them as hashes."""

    frequent: tuple[str, ...]
    known: NDArray[np.uint32]  # sorted

    @classmethod
    def of(cls, texts: Iterable[str]) -> Words:
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(words_of(text))
        frequent = [word for word, texts_with in counts.items() if texts_with >= FEWEST_TEXTS]
        frequent.sort(key=lambda word: (-counts[word], word))
        return cls(tuple(frequent[:FREQUENT_WORDS]), np.unique(_hashes(counts)))

    def in_texts(self, texts: Sequence[str]) -> Flags:
        """n x frequent words: is it in the text?"""
        column = {word: index for index, word in enumerate(self.frequent)}
        found = np.zeros((len(texts), len(self.frequent)), dtype=bool)
        for row, text in enumerate(texts):
            found[row, [column[word] for word in words_of(text) if word in column]] = True
        return found

    def unknown_in(self, texts: Sequence[str]) -> Array:
        """n: the share of the text's words that no text had which was learnt from; NaN without words."""
        known = set(self.known.tolist())
        shares = np.full(len(texts), np.nan, dtype=np.float32)
        for row, text in enumerate(texts):
            if hashes := _hashes(words_of(text)).tolist():
                shares[row] = sum(one not in known for one in hashes) / len(hashes)
        return shares


def words_of(text: str) -> set[str]:
    """The different words of a text, in the form in which models see them."""
    return set(fold(text).split())


def _hashes(words: Iterable[str]) -> NDArray[np.uint32]:
    return np.array([zlib.crc32(word.encode()) for word in words], dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class Observations:
    """n products, column by column. NaN or "" where there is nothing to observe.

    `numbers` and `names` have n values a column, `words` n x frequent words for each field of text, `components`
    is n x components.
    """

    numbers: Mapping[str, Array]
    names: Mapping[str, Sequence[str]]
    words: Mapping[str, Flags]
    components: Array

    def __len__(self) -> int:
        return len(self.components)

    def at(self, rows: NDArray[np.intp]) -> Observations:
        return Observations(
            {name: values[rows] for name, values in self.numbers.items()},
            {name: tuple(values[row] for row in rows.tolist()) for name, values in self.names.items()},
            {field: flags[rows] for field, flags in self.words.items()},
            self.components[rows],
        )

    def joined(self, others: Observations) -> Observations:
        """These products, and then the others, which have the same columns."""
        return Observations(
            {name: np.concatenate([values, others.numbers[name]]) for name, values in self.numbers.items()},
            {name: (*values, *others.names[name]) for name, values in self.names.items()},
            {field: np.concatenate([flags, others.words[field]]) for field, flags in self.words.items()},
            np.concatenate([self.components, others.components]),
        )


@dataclass(frozen=True, slots=True)
class Reference:
    """`right` says of each row whether the prediction was; `axes` is None for a model without images."""

    rows: Observations
    right: Flags
    words: Mapping[str, Words]
    axes: Axes | None

    def __len__(self) -> int:
        return len(self.rows)

    def table(self) -> dict[str, Any]:
        """What goes into `reference.json`."""
        return {
            "rows": len(self),
            "names": {name: list(values) for name, values in self.rows.names.items()},
            "frequent_words": {field: list(words.frequent) for field, words in self.words.items()},
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What goes into `reference.safetensors`."""
        rows = self.rows
        return {
            **{f"number.{name}": values for name, values in rows.numbers.items()},
            **{f"words.{field}": np.packbits(flags, axis=1) for field, flags in rows.words.items()},
            **{f"known.{field}": words.known for field, words in self.words.items()},
            "components": np.ascontiguousarray(rows.components),
            "right": self.right.astype(np.uint8),
            **({} if self.axes is None else {"axes.mean": self.axes.mean, "axes.axes": self.axes.axes}),
        }

    @classmethod
    def from_tables(cls, table: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Reference:
        """Raises KeyError, TypeError or ValueError where the two do not fit each other."""
        frequent = table["frequent_words"]
        words = {field: Words(tuple(frequent[field]), arrays[f"known.{field}"]) for field in frequent}
        rows = Observations(
            numbers={
                key.removeprefix("number."): values for key, values in arrays.items() if key.startswith("number.")
            },
            names={name: tuple(values) for name, values in table["names"].items()},
            words={
                field: np.unpackbits(arrays[f"words.{field}"], axis=1, count=len(one.frequent)).astype(bool)
                for field, one in words.items()
            },
            components=arrays["components"],
        )
        lengths = {len(one) for one in (*rows.numbers.values(), *rows.names.values(), *rows.words.values())}
        if not lengths <= {len(rows)} or len(arrays["right"]) != len(rows):
            raise ValueError("the columns of the reference have different lengths")
        axes = Axes(arrays["axes.mean"], arrays["axes.axes"]) if "axes.mean" in arrays else None
        return cls(rows, arrays["right"].astype(bool), words, axes)

"""The products that were learnt from, to find those that are most like another one.

    neighbours.json          their keys, titles and types, and the words that count
    neighbours.safetensors   TF-IDF of their titles' words (sparse); image features along axes (8-bit integers)

Every one is looked at: exact, and at 100,000 products still a few hundredths of a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from aisle.model.image import Features
from aisle.model.ngrams import NGrams, rows_of
from aisle.model.reference import Axes
from aisle.model.text import fold

NEIGHBOURS_TABLE = "neighbours.json"
NEIGHBOURS_ARRAYS = "neighbours.safetensors"
LARGEST = 127


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A product that was learnt from; `similarity` is in [0, 1]."""

    key: str
    title: str
    code: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Neighbours:
    """n products: `texts` is n x words, rows of length 1; `images` n x axes, whole numbers up to 127 along rows of
    that length, zero without an image. `axes` is None where no model looks at images."""

    keys: Sequence[str]
    titles: Sequence[str]
    codes: Sequence[str]
    stop_words: tuple[str, ...]
    words: NGrams
    texts: sp.csr_matrix
    axes: Axes | None
    images: Features

    def nearest(self, title: str, features: Features | None, count: int = 5) -> tuple[Neighbour, ...]:
        """The most similar ones first, by what the product has; none where it has nothing that is known here."""
        parts = []
        if title:
            text = rows_of([fold(title, frozenset(self.stop_words))], [self.words])
            parts.append((self.texts @ text.T).toarray()[:, 0])
        if features is not None and self.axes is not None:
            image = scaled(self.axes.of_rows(features[np.newaxis]))[0]
            parts.append(self.images @ image / LARGEST**2)
        if not parts:
            return ()
        similarity = np.clip(sum(parts) / len(parts), 0, 1)
        best = np.argsort(-similarity, kind="stable")[:count]
        return tuple(
            Neighbour(self.keys[row], self.titles[row], self.codes[row], float(similarity[row]))
            for row in best.tolist()
            if similarity[row] > 0
        )

    def table(self) -> dict[str, Any]:
        return {
            "keys": self.keys,
            "titles": self.titles,
            "codes": self.codes,
            "stop_words": self.stop_words,
            "words": sorted(self.words.columns, key=self.words.columns.__getitem__),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        axes = {} if self.axes is None else {"mean": self.axes.mean, "axes": self.axes.axes}
        texts = self.texts
        return {
            **axes,
            "idf": self.words.idf,
            "images": self.images.astype(np.int8),
            "texts": texts.data,
            "texts_columns": texts.indices.astype(np.int32),
            "texts_starts": texts.indptr.astype(np.int64),
        }

    @classmethod
    def from_tables(cls, table: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Neighbours:
        """Raises KeyError, TypeError or ValueError for tables that do not fit each other."""
        words = NGrams("words", (1, 1), {word: at for at, word in enumerate(table["words"])}, arrays["idf"])
        shape = (len(table["keys"]), len(words.idf))
        texts = sp.csr_matrix((arrays["texts"], arrays["texts_columns"], arrays["texts_starts"]), shape=shape)
        texts.check_format(full_check=True)
        if {len(table["titles"]), len(table["codes"]), len(arrays["images"])} != {shape[0]}:
            raise ValueError("as many titles, types and images as keys are needed")
        axes = Axes(arrays["mean"], arrays["axes"]) if "axes" in arrays else None
        return cls(
            table["keys"], table["titles"], table["codes"], tuple(table["stop_words"]), words, texts, axes,
            arrays["images"].astype(np.float32),
        )  # fmt: skip


def scaled(rows: Features) -> Features:
    """Rows of length 127 in whole numbers; zeros stay zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled_rows: Features = np.round(np.divide(rows * LARGEST, lengths, out=np.zeros_like(rows), where=lengths > 0))
    return scaled_rows

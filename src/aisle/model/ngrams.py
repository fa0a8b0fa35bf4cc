"""N-grams of folded texts, weighted by TF-IDF: what scikit-learn's TfidfVectorizer makes of them, without loading it.

Loading scikit-learn takes more than a second, and only training needs more of it than this. The weights are equal to
its own (C. Manning, P. Raghavan, H. Schütze, Introduction to Information Retrieval, 2008, chapter 6; sublinear term
frequency, rows of length 1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class NGrams:
    """The n-grams of one kind that are known, each with its column, and each column's inverse document frequency."""

    of: Literal["words", "characters"]
    sizes: tuple[int, int]
    columns: dict[str, int]
    idf: NDArray[np.float32]

    def words_of(self, text: str) -> Iterator[tuple[int, range]]:
        """The column of each known n-gram of a text, as often as it is there, and the places of its words."""
        words = text.split()
        grams: Iterable[tuple[str, range]]
        if self.of == "words":
            grams = zip(word_ngrams(text, *self.sizes), _places(len(words), *self.sizes), strict=True)
        else:
            grams = (
                (gram, range(place, place + 1))
                for place, word in enumerate(words)
                for gram in character_ngrams(word, *self.sizes)
            )
        return ((self.columns[gram], places) for gram, places in grams if gram in self.columns)

    def row(self, text: str) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The known n-grams of a text, by column, and their weights: none, or a row of length 1."""
        grams = word_ngrams(text, *self.sizes) if self.of == "words" else character_ngrams(text, *self.sizes)
        known = self.columns
        found = sorted(Counter([known[gram] for gram in grams if gram in known]).items())  # few: NumPy takes longer
        columns = np.array([column for column, _ in found], dtype=np.int32)
        weights = np.log(np.array([count for _, count in found], dtype=np.float32))
        weights += 1
        weights *= self.idf[columns]
        length = np.sqrt(np.square(weights).sum(dtype=np.float64))
        return columns, (weights / length).astype(np.float32) if length else weights


def rows_of(texts: Sequence[str], halves: Sequence[NGrams]) -> sp.csr_matrix:
    """texts x n-grams of all `halves` side by side, float32."""
    first = np.cumsum([0, *(len(half.idf) for half in halves)])
    rows = [
        (columns + before, weights)
        for text in texts
        for half, before in zip(halves, first.tolist(), strict=False)
        for columns, weights in [half.row(text)]
    ]
    starts = np.cumsum([0, *(len(columns) for columns, _ in rows)])[:: len(halves)]
    columns = np.concatenate([*(columns for columns, _ in rows), np.empty(0, np.int32)])
    weights = np.concatenate([*(weights for _, weights in rows), np.empty(0, np.float32)])
    return sp.csr_matrix((weights, columns, starts), shape=(len(texts), first[-1]))


def word_ngrams(text: str, shortest: int, longest: int) -> list[str]:
    """Runs of words, one space between.

    >>> word_ngrams("un beau livre", 1, 2)
    ['un', 'beau', 'livre', 'un beau', 'beau livre']
    """
    words = text.split()
    return [
        " ".join(words[start : start + size])
        for size in range(shortest, longest + 1)
        for start in range(len(words) - size + 1)
    ]


def _places(words: int, shortest: int, longest: int) -> Iterator[range]:
    """The runs of words, in the order of `word_ngrams`."""
    sizes = range(shortest, longest + 1)
    return (range(start, start + size) for size in sizes for start in range(words - size + 1))


def character_ngrams(text: str, shortest: int, longest: int) -> list[str]:
    """Runs of characters within each word and the spaces around it; a word that is too short is one, once.

    >>> character_ngrams("un", 3, 5)
    [' un', 'un ', ' un ']
    """
    grams: list[str] = []
    for word in text.split():
        padded = f" {word} "
        for size in range(shortest, longest + 1):
            if size >= len(padded):
                grams.append(padded)
                break
            grams += [padded[start : start + size] for start in range(len(padded) - size + 1)]
    return grams

"""The text model of one field: TF-IDF over word and character n-grams, and a linear head.

Title and description are fields of their own, each with a model of its own. The features fold case and accents
and leave out stop words, so that "Écharpe d'été" and "echarpe ete" are one text to them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from aisle.model.ngrams import NGrams, rows_of

Scores = NDArray[np.float32]
"""n x types: one score for each type, before calibration."""

Half = tuple[dict[str, int], NDArray[np.float32]]
"""The column of each n-gram, and of each column the inverse document frequency."""

_WORD = re.compile(r"[^\W_]+")
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Which n-grams count: shortest and longest, and in how many texts one must occur to be known."""

    word_ngrams: tuple[int, int] = (1, 2)
    word_min_texts: int = 1
    char_ngrams: tuple[int, int] = (2, 5)
    char_min_texts: int = 2
    stop_words: tuple[str, ...] = ()


def fold(text: str, stop_words: frozenset[str] = frozenset()) -> str:
    """Words of `text` without case, accents and stop words (unless nothing else is left), one space between.

    Every digit becomes 0: how a number is written (30x40, 2019, 128 Go) says more of a type than its value.

    >>> fold("Lot de 3 Écharpes d'été 30x40", frozenset({"de", "d"}))
    'lot 0 echarpes ete 00x00'
    """
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(c for c in decomposed if not unicodedata.combining(c))
    words = _WORD.findall(_DIGIT.sub("0", plain))
    return " ".join([word for word in words if word not in stop_words] or words)


def folded_words(text: str, stop_words: frozenset[str] = frozenset()) -> list[tuple[int, str]]:
    """The words of `fold`, each with the place among `text.split()` of the word that it comes from.

    >>> folded_words("Écharpes d'été", frozenset({"d"}))
    [(0, 'echarpes'), (1, 'ete')]
    """
    words = [(place, word) for place, written in enumerate(text.split()) for word in fold(written).split()]
    return [(place, word) for place, word in words if word not in stop_words] or words


class TextVectorizer:
    """Texts → sparse rows of TF-IDF weights, words first, then characters; each half has length 1."""

    def __init__(self, features: TextFeatures) -> None:
        self.features = features
        self._stop_words = frozenset(features.stop_words)
        self._halves: list[NGrams] = []

    def fit(self, texts: Sequence[str]) -> TextVectorizer:
        from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415  only training needs it

        known, folded = self.features, self._fold(texts)
        words = TfidfVectorizer(
            ngram_range=known.word_ngrams,
            min_df=known.word_min_texts,
            token_pattern=r"\S+",  # noqa: S106  words, not a secret
            lowercase=False,
            dtype=np.float32,
        ).fit(folded)
        characters = TfidfVectorizer(
            analyzer="char_wb",
            ngram_range=known.char_ngrams,
            min_df=known.char_min_texts,
            lowercase=False,
            dtype=np.float32,
        ).fit(folded)
        self._halves = self._of(*((half.vocabulary_, half.idf_.astype(np.float32)) for half in (words, characters)))
        return self

    def transform(self, texts: Sequence[str]) -> sp.csr_matrix:
        return rows_of(self._fold(texts), self._halves)

    def shares(self, text: str) -> Iterator[tuple[int, int, float]]:
        """What the row of `text` is made of: column, place among `text.split()`, and the part of the weight that is
        from there. An n-gram of several words, or that is there several times, is from all of them alike."""
        placed = folded_words(text, self._stop_words)
        row = self.transform([text])
        weights = dict(zip(row.indices.tolist(), row.data.tolist(), strict=True))
        before = 0
        for half in self._halves:
            found = [(before + column, words) for column, words in half.words_of(" ".join(w for _, w in placed))]
            times = Counter(column for column, _ in found)
            for column, words in found:
                part = weights[column] / times[column] / len(words)
                yield from ((column, placed[word][0], part) for word in words)
            before += len(half.idf)

    def to_tables(self) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
        """The vectoriser as JSON and arrays."""
        vocabularies = [sorted(half.columns, key=half.columns.__getitem__) for half in self._halves]
        idf = {f"idf_{i}": half.idf for i, half in enumerate(self._halves)}
        return {"features": asdict(self.features), "vocabularies": vocabularies}, idf

    @classmethod
    def from_tables(cls, table: dict[str, Any], arrays: dict[str, NDArray[np.float32]]) -> TextVectorizer:
        known: dict[str, Any] = table["features"]
        features = TextFeatures(
            word_ngrams=tuple(known["word_ngrams"]),
            word_min_texts=known["word_min_texts"],
            char_ngrams=tuple(known["char_ngrams"]),
            char_min_texts=known["char_min_texts"],
            stop_words=tuple(known["stop_words"]),
        )
        made = cls(features)
        words, characters = table["vocabularies"]
        made._halves = made._of(
            ({ngram: column for column, ngram in enumerate(words)}, arrays["idf_0"]),
            ({ngram: column for column, ngram in enumerate(characters)}, arrays["idf_1"]),
        )
        return made

    def _of(self, words: Half, characters: Half) -> list[NGrams]:
        return [
            NGrams("words", self.features.word_ngrams, *words),
            NGrams("characters", self.features.char_ngrams, *characters),
        ]

    def _fold(self, texts: Sequence[str]) -> list[str]:
        return [fold(text, self._stop_words) for text in texts]


class TextModel:
    """The model of one text field. A text's scores do not depend on the other texts of its batch."""

    def __init__(self, vectorizer: TextVectorizer, weights: Scores, bias: Scores) -> None:
        self.vectorizer = vectorizer
        self.weights = np.ascontiguousarray(weights, dtype=np.float32)  # n-grams x types
        self.bias = np.asarray(bias, dtype=np.float32)  # types

    def scores(self, texts: Sequence[str]) -> Scores:
        scores: Scores = self.vectorizer.transform(texts) @ self.weights + self.bias
        return scores

    def weights_of_words(self, text: str, type_: int) -> Scores:
        """How much each of `text.split()` adds to the score of a type (its column) above the mean of all types.

        Exact: with the types' biases they make up the score.
        """
        above = self.weights[:, type_] - self.weights.mean(axis=1)
        weights = np.zeros(len(text.split()), dtype=np.float32)
        for column, place, share in self.vectorizer.shares(text):
            weights[place] += share * above[column]
        return weights

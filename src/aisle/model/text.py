"""The text model of one field: TF-IDF over word and character n-grams, and a linear head.

Title and description are fields of their own, each with a model of its own. The features fold case and accents
and leave out stop words, so that "Écharpe d'été" and "echarpe ete" are one text to them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

Scores = NDArray[np.float32]
"""n x types: one score for each type, before calibration."""

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


class TextVectorizer:
    """Texts → sparse rows of TF-IDF weights, words first, then characters; each half has length 1."""

    def __init__(self, features: TextFeatures) -> None:
        self.features = features
        self._stop_words = frozenset(features.stop_words)
        self._halves: list[TfidfVectorizer] = []

    def fit(self, texts: Sequence[str]) -> TextVectorizer:
        folded = self._fold(texts)
        self._halves = [half.fit(folded) for half in self._new_halves()]
        return self

    def transform(self, texts: Sequence[str]) -> sp.csr_matrix:
        folded = self._fold(texts)
        rows: sp.csr_matrix = sp.hstack([half.transform(folded) for half in self._halves], format="csr")
        return rows

    def to_tables(self) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
        """The vectoriser as JSON and arrays."""
        vocabularies = [sorted(half.vocabulary_, key=half.vocabulary_.__getitem__) for half in self._halves]
        idf = {f"idf_{i}": half.idf_.astype(np.float32) for i, half in enumerate(self._halves)}
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
        for i, (half, vocabulary) in enumerate(zip(made._new_halves(), table["vocabularies"], strict=True)):
            half.set_params(vocabulary={ngram: column for column, ngram in enumerate(vocabulary)})
            half.idf_ = arrays[f"idf_{i}"]
            made._halves.append(half)
        return made

    def _new_halves(self) -> list[TfidfVectorizer]:
        from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415  the registry does without it

        known, common = self.features, {"sublinear_tf": True, "lowercase": False, "dtype": np.float32}
        return [
            TfidfVectorizer(
                ngram_range=known.word_ngrams,
                min_df=known.word_min_texts,
                token_pattern=r"\S+",  # noqa: S106  words, not a secret
                **common,
            ),
            TfidfVectorizer(analyzer="char_wb", ngram_range=known.char_ngrams, min_df=known.char_min_texts, **common),
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

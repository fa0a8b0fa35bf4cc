"""The recurrent text model: words in their order, through an ONNX graph."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle.model.pieces import PieceTokenizer
from aisle.model.runtime import onnx_session
from aisle.model.text import Scores, fold, folded_words

_SPACE = re.compile(r"(\s+)")

PADDING, UNKNOWN = 0, 1
"""The numbers of what fills a batch up and of every word that is not known; words have the others."""

WordIds = NDArray[np.int64]


class WordTokenizer:
    """Texts → numbers of words: folded as for every text model, the first `max_words` of a text.

    `words` are the known words, the most frequent first.
    """

    def __init__(self, words: Sequence[str], max_words: int, stop_words: Iterable[str] = ()) -> None:
        self.words = tuple(words)
        self.max_words = max_words
        self._stop_words = frozenset(stop_words)
        self._ids = {word: number for number, word in enumerate(self.words, start=UNKNOWN + 1)}

    @classmethod
    def fit(
        cls, texts: Iterable[str], *, vocabulary: int, max_words: int, stop_words: Iterable[str] = ()
    ) -> WordTokenizer:
        """Know the `vocabulary` most frequent words of `texts`; of equally frequent ones the first by alphabet."""
        known = frozenset(stop_words)
        counts = Counter(word for text in texts for word in fold(text, known).split())
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(ranked[:vocabulary], max_words, known)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> WordTokenizer:
        return cls(table["words"], table["max_words"], table["stop_words"])

    def to_table(self) -> dict[str, Any]:
        return {"words": self.words, "max_words": self.max_words, "stop_words": sorted(self._stop_words)}

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return len(self.words) + UNKNOWN + 1

    def ids(self, text: str) -> WordIds:
        """One number a word, at least one."""
        words = fold(text, self._stop_words).split()[: self.max_words]
        return np.array([self._ids.get(word, UNKNOWN) for word in words] or [UNKNOWN], dtype=np.int64)

    def read(self, text: str) -> list[tuple[int, str]]:
        """The words that are numbered, each with the place among `text.split()` of the word that it comes from."""
        return folded_words(text, self._stop_words)[: self.max_words]


class SequenceModel:
    """The graph takes `words` (1 x words, int64) and gives 1 x types scores.

    One text at a time: on one CPU core a batch of texts gains little, and a text's scores do not depend on its
    neighbours.
    """

    def __init__(self, tokenizer: WordTokenizer | PieceTokenizer, graph: bytes) -> None:
        self.tokenizer = tokenizer
        self.graph = graph
        self._session = onnx_session(graph, "text model")
        self._input = self._session.get_inputs()[0].name
        self._types = int(self._session.get_outputs()[0].shape[-1])

    def scores(self, texts: Sequence[str]) -> Scores:
        out = np.empty((len(texts), self._types), dtype=np.float32)
        for row, text in enumerate(texts):
            out[row] = self._session.run(None, {self._input: self.tokenizer.ids(text)[np.newaxis]})[0][0]
        return out

    def weights_of_words(self, text: str, type_: int) -> Scores:
        """How much each of `text.split()` adds to the score of a type (its column) above the mean of all types: what
        is lost where it is left out. Words that the model does not come to add nothing."""
        read = sorted({place for place, _ in self.tokenizer.read(text)})
        return weights_by_leaving_out(self.scores, text, read, type_)


def weights_by_leaving_out(
    scores: Callable[[Sequence[str]], Scores], text: str, read: Sequence[int], type_: int
) -> Scores:
    """For each of `text.split()` by how much less the type's score is above the mean of all types without it; 0 for
    those whose places are not among those that the model has `read`."""
    words_and_space = _SPACE.split(text.strip())
    reached = words_and_space[: 2 * read[-1] + 1] if read else []
    without = ["".join([*reached[: 2 * place], *reached[2 * place + 1 :]]) for place in read]
    found = scores(["".join(reached), *without])
    above = found[:, type_] - found.mean(axis=1)
    weights = np.zeros(len(text.split()), dtype=np.float32)
    weights[list(read)] = above[0] - above[1:]
    return weights

"""Texts → numbers of pieces of words, as SentencePiece's unigram model cuts them (T. Kudo, arXiv:1804.10959).

A dependency of ours would be the package `tokenizers`, which brings a client of a model hub into every process that
predicts; this is the part of it that is needed.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_CHARACTERS = 1_000
"""Of a text: more pieces than that no model reads."""
WORD = "▁"
"""How a piece begins that begins a word."""
UNKNOWN_COSTS = 10.0
"""So much less likely than the least likely piece is a character that no piece has."""


@dataclass(frozen=True, slots=True)
class Special:
    """The numbers of the pieces that are no text."""

    begin: int
    end: int
    padding: int
    unknown: int


class PieceTokenizer:
    """`pieces` with their log-probabilities, by number; a text has `most_pieces` at most, begin and end among them.

    Case and accents are folded, unless the pieces are `cased`, and `stop_words` left out unless a text has nothing
    else; each word is cut into the pieces that are likeliest together. Where a text goes over to a next line stand
    the pieces `between`.
    """

    def __init__(
        self,
        pieces: Sequence[tuple[str, float]],
        special: Special,
        most_pieces: int,
        stop_words: Iterable[str] = (),
        *,
        cased: bool = False,
        between: Sequence[int] = (),
    ) -> None:
        self.pieces = tuple(pieces)
        self.special = special
        self.most_pieces = most_pieces
        self.cased = cased
        self.between = tuple(between)
        self._stop_words = frozenset(stop_words)
        self._folded = _normal if cased else _folded
        no_text = {special.begin, special.end, special.padding, special.unknown}
        self._known = {piece: (number, log) for number, (piece, log) in enumerate(pieces) if number not in no_text}
        self._longest = max(map(len, self._known), default=1)
        self._unknown = min((log for _, log in self._known.values()), default=0.0) - UNKNOWN_COSTS
        self._of_word = lru_cache(maxsize=50_000)(self._cut)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> PieceTokenizer:
        """Raises KeyError, TypeError or ValueError for what is none."""
        pieces = [(str(piece), float(log)) for piece, log in table["pieces"]]
        return cls(
            pieces,
            Special(**table["special"]),
            int(table["most_pieces"]),
            table["stop_words"],
            cased=bool(table.get("cased")),
            between=table.get("between", ()),
        )

    def to_table(self) -> dict[str, Any]:
        special = {name: getattr(self.special, name) for name in Special.__slots__}
        return {
            "pieces": self.pieces,
            "special": special,
            "most_pieces": self.most_pieces,
            "stop_words": sorted(self._stop_words),
            **({"cased": True} if self.cased else {}),
            **({"between": self.between} if self.between else {}),
        }

    def ids(self, text: str) -> NDArray[np.int64]:
        """One number a piece, between those of begin and end."""
        first = len(text.partition("\n")[0].split())
        numbers: list[int] = []
        for place, number in self.read(text):
            if place >= first and first:
                numbers += self.between
                first = 0
            numbers.append(number)
        return np.array([self.special.begin, *numbers[: self.most_pieces - 2], self.special.end], dtype=np.int64)

    def read(self, text: str) -> list[tuple[int, int]]:
        """The pieces that are numbered, each with the place among `text.split()` of the word that it is of."""
        words = [(place, self._folded(word)) for place, word in enumerate(text[:MOST_CHARACTERS].split())]
        found: list[tuple[int, int]] = []
        for place, word in [one for one in words if one[1] not in self._stop_words] or words:
            found += [(place, number) for number in self._of_word(word)]
            if len(found) >= self.most_pieces - 2:
                break
        return found[: self.most_pieces - 2]

    def _cut(self, folded: str) -> tuple[int, ...]:
        """The best way to each place, from the first to the last; runs of what is unknown are one piece."""
        word = WORD + folded
        best = [0.0] + [-math.inf] * len(word)
        came_from = [(0, self.special.unknown)] * (len(word) + 1)
        for end in range(1, len(word) + 1):
            for start in range(max(0, end - self._longest), end):
                number, log = self._known.get(word[start:end], (self.special.unknown, -math.inf))
                if start == end - 1 and log == -math.inf:
                    log = self._unknown
                if best[start] + log > best[end]:
                    best[end], came_from[end] = best[start] + log, (start, number)
        numbers: list[int] = []
        end = len(word)
        while end:
            end, number = came_from[end]
            if number != self.special.unknown or numbers[-1:] != [number]:
                numbers.append(number)
        return tuple(reversed(numbers))


def _normal(word: str) -> str:
    """As SentencePiece has it by default, nearly; what falls apart into words begins anew."""
    return WORD.join(unicodedata.normalize("NFKC", word).split())


def _folded(word: str) -> str:
    decomposed = unicodedata.normalize("NFKD", word.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c))

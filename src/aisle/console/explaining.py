"""An explanation as it is shown: marked words, bars, a heat map over the image, and the nearest products."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from aisle.catalog import ProductType, ProductTypes
from aisle.excerpts import excerpt
from aisle.model.bundle import label_of
from aisle.model.explain import Explanation, Word

LEVELS = 4
"""Shades of a mark."""
MOST_WORDS = 300
WEAKEST = 0.08
"""Of the strongest word; what weighs less is not marked."""
IMAGE = "image"


@dataclass(frozen=True)
class Mark:
    """A word; `kind` is empty, `for1` to `for4` where it speaks for the type, or `against1` to `against4`."""

    text: str
    kind: str


@dataclass(frozen=True)
class Share:
    """How much a model had to say, in [0, 1] of all; `speaks_for` the type, or against it."""

    name: str
    share: float
    speaks_for: bool


@dataclass(frozen=True)
class Cell:
    """A square of the heat map: its place and side in [0, 1] of the image, and how strong it is, in [0, 1]."""

    x: float
    y: float
    side: float
    heat: float


@dataclass(frozen=True)
class Near:
    title: str
    key: str
    type: ProductType
    similarity: float


@dataclass(frozen=True)
class Why:
    """`picture` is an address that holds the image itself; `more` counts words by text that are not shown."""

    texts: dict[str, tuple[Mark, ...]]
    more: dict[str, int]
    shares: tuple[Share, ...]
    picture: str | None
    cells: tuple[Cell, ...]
    neighbours: tuple[Near, ...]


def why_of(explanation: Explanation, types: ProductTypes, picture: bytes | None) -> Why:
    strongest = max((abs(one.weight) for words in explanation.words.values() for one in words), default=0.0)
    total = sum(map(abs, explanation.weights.values())) or 1.0
    shares = [Share(name, abs(weight) / total, weight >= 0) for name, weight in explanation.weights.items()]
    shown = None if picture is None else f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
    return Why(
        texts={name: _marks(words[:MOST_WORDS], strongest) for name, words in explanation.words.items()},
        more={name: max(0, len(words) - MOST_WORDS) for name, words in explanation.words.items()},
        shares=tuple(sorted(shares, key=lambda one: -one.share)),
        picture=shown,
        cells=() if explanation.heat_map is None else _cells(explanation.heat_map.tolist()),
        neighbours=tuple(
            Near(excerpt(one.title, 120), one.key, label_of(types, one.code), one.similarity)
            for one in explanation.neighbours
        ),
    )


def _marks(words: Sequence[Word], strongest: float) -> tuple[Mark, ...]:
    return tuple(Mark(excerpt(one.text, 80), _kind(one.weight, strongest)) for one in words)


def _kind(weight: float, strongest: float) -> str:
    share = abs(weight) / strongest if strongest else 0.0
    if share < WEAKEST:
        return ""
    return f"{'for' if weight > 0 else 'against'}{min(LEVELS, 1 + int(share * LEVELS))}"


def _cells(rows: Sequence[Sequence[float]]) -> tuple[Cell, ...]:
    """What lies above nothing lost, by how much is lost in the worst place."""
    most = max(max(row) for row in rows)
    if most <= 0:
        return ()
    side = 1 / len(rows)
    return tuple(
        Cell(column * side, row * side, side, heat / most)
        for row, line in enumerate(rows)
        for column, heat in enumerate(line)
        if heat / most >= WEAKEST
    )

"""What `words.toml` says: how the products of each type read and look."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

Colour = tuple[int, int, int]

WORDS_PATH = Path(__file__).with_name("words.toml")


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape of a layout; `box` is x, y, width and height in percent of the picture."""

    form: str
    repeat: int
    optional: bool
    box: tuple[int, int, int, int]
    colour: str

    @classmethod
    def parse(cls, text: str) -> Shape:
        kind, x, y, width, height, colour = text.split()
        form, _, repeat = kind.rstrip("?").partition("*")
        return cls(form, int(repeat or 1), kind.endswith("?"), (int(x), int(y), int(width), int(height)), colour)


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """How the products of one type read and look; `titles` tell the type, `vague` ones only its family."""

    code: str
    weight: float
    titles: list[str]
    vague: list[str]
    tails: list[str]
    facts: list[str]
    sentences: list[str]
    lists: Mapping[str, list[str]]
    colours: list[str]
    layouts: list[list[Shape]]


@dataclass(frozen=True, slots=True)
class Words:
    """All that a catalogue is made of."""

    kinds: Mapping[Kind, float]  # with its weight
    colours: Mapping[str, Colour]


@cache
def load_words() -> Words:
    """The words of `words.toml`, read once in a process."""
    table = tomllib.loads(WORDS_PATH.read_text(encoding="utf-8"))
    kinds = [_kind(code, table) for code in table["types"]]
    colours = {name: (red, green, blue) for name, (red, green, blue) in table["colours"].items()}
    return Words({kind: kind.weight for kind in kinds}, colours)


def _kind(code: str, table: Mapping[str, Any]) -> Kind:
    own = table["types"][code]
    family = table["families"][own["family"]]
    lists = {name: _entries(text) for name, text in {**table["lists"], "noun": own["noun"]}.items()}
    return Kind(
        code=code,
        weight=own["weight"],
        titles=own["titles"],
        vague=family["titles"],
        tails=family["tails"],
        facts=own["facts"],
        sentences=family["sentences"] + table["common"]["sentences"],
        lists=lists,
        colours=_entries(own["colours"]),
        layouts=[[Shape.parse(text) for text in table["layouts"][name]] for name in _entries(own["layouts"])],
    )


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",")]

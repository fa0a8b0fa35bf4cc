"""The title and the description of a product, with the entities and the mojibake of the real data."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.entities import codepoint2name

from aisle.data.sample.plan import Draw, Row
from aisle.data.sample.words import Kind

NO_DESCRIPTION = 0.35
VAGUE_TITLE = 0.11  # fits several types: the reason why no model gets every title right
MOST_TITLE_WORDS = 25

INNERMOST_SLOT = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)-(\d+)")
ELISION = re.compile(r"\b([Dd])e (?=[AÀEÉÈIÎOÔ])")


def title(row: Row) -> str:
    """The designation, which a twin shares; at most 25 words."""
    draw = Draw(row.seed, row.title_of, "title")
    kind, colour = row.kind, row.colour(row.title_of)
    pattern = draw.pick(kind.vague if draw.chance(VAGUE_TITLE) else kind.titles)
    tails = dict.fromkeys(draw.pick(kind.tails) for _ in range(draw.weighted(TAILS)))
    parts = [_fill(part, kind, colour, draw) for part in [pattern, *tails]]
    words = draw.pick([" ", " ", " - "]).join(parts).replace("- - ", "- ").split()
    text = draw.weighted(LETTER_CASES)(" ".join(words[:MOST_TITLE_WORDS]))
    return draw.weighted(TITLE_SPELLINGS)(text)


def description(row: Row) -> str:
    """One to eight sentences of its own, with markup; empty for a third of the products."""
    draw = Draw(row.seed, row.number, "description")
    if draw.chance(NO_DESCRIPTION):
        return ""
    kind, colour = row.kind, row.colour(row.number)
    count = draw.between(1, 8)
    patterns = [draw.pick(kind.facts if draw.chance(0.3) else kind.sentences) for _ in range(count)]
    spelling = draw.weighted(DESCRIPTION_SPELLINGS)
    sentences = [_fill(pattern, kind, colour, draw) for pattern in dict.fromkeys(patterns)]
    first, *others = [spelling(sentence[:1].upper() + sentence[1:]) for sentence in sentences]
    between, before, after = draw.weighted(DESCRIPTION_LAYOUTS)
    return between.join([f"{before}{first}{after}", *others])


def _fill(pattern: str, kind: Kind, colour: str, draw: Draw) -> str:
    """Fill the slots of a pattern, the innermost first; `words.toml` says what they may hold."""

    def filled(slot: re.Match[str]) -> str:
        name: str = slot[1]
        if "|" in name:
            return draw.pick(name.split("|"))
        if span := RANGE.fullmatch(name):
            return str(draw.between(int(span[1]), int(span[2])))
        return colour if name == "colour" else draw.pick(kind.lists[name])

    while "{" in pattern:
        pattern = INNERMOST_SLOT.sub(filled, pattern)
    return ELISION.sub(r"\1'", pattern)


ENTITIES = {code: f"&{name};" for code, name in codepoint2name.items() if code > 127}
ENTITIES |= {ord("'"): "&#39;", ord("+"): "&#43;"}


def _as_entities(text: str) -> str:
    return text.translate(ENTITIES)


def _as_entities_twice(text: str) -> str:
    return _as_entities(text).replace("&", "&amp;")


def _as_mojibake(text: str) -> str:
    """UTF-8 read as Windows-1252: 'é' becomes 'Ã©'."""
    return text.encode().decode("cp1252", errors="replace")


# What is drawn, and how often. `str` leaves a text as it is.
Spelling = Callable[[str], str]
TAILS = {0: 24, 1: 28, 2: 22, 3: 14, 4: 8, 6: 4}
LETTER_CASES: dict[Spelling, float] = {str: 35, str.title: 37, str.lower: 12, str.upper: 9, str.capitalize: 7}
TITLE_SPELLINGS: dict[Spelling, float] = {str: 95.5, _as_entities: 3, _as_mojibake: 1.5}
DESCRIPTION_SPELLINGS: dict[Spelling, float] = {
    str: 64, _as_entities: 24, _as_entities_twice: 8, _as_mojibake: 4
}  # fmt: skip
# Between the sentences, before the first one, after it.
DESCRIPTION_LAYOUTS = {
    (" ", "", ""): 58,
    ("<br>", "", ""): 11,
    ("<br /><br />", "", ""): 7,
    ("</p><p>", "<p>", ""): 10,
    (" ", "<b>", "</b>"): 8,
    ("<li>", "<ul><li>", "</li>"): 6,
}

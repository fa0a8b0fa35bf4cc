"""Which product is of which type, which ones are twins, which images are broken; and where chance comes from."""

from __future__ import annotations

import bisect
import itertools
import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from aisle.data.sample.words import Kind, load_words

T = TypeVar("T")

FIRST_BROKEN_ROW = 200  # a tiny catalogue is clean, so that tests of other things stay simple
JPEG_QUALITY, TWIN_JPEG_QUALITY = 82, 60


class Draw:
    """Chance. It rests on `random()` alone, the one method whose sequence Python promises never to change."""

    def __init__(self, *names: object) -> None:
        self._next = random.Random("/".join(map(str, names))).random  # noqa: S311  not for secrets

    def chance(self, probability: float) -> bool:
        return self._next() < probability

    def between(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return low + int(self._next() * (high - low + 1))

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self._next() * len(items))]

    def weighted(self, weights: Mapping[T, float]) -> T:
        steps = list(itertools.accumulate(weights.values()))
        return list(weights)[bisect.bisect_right(steps, self._next() * steps[-1], hi=len(steps) - 1)]

    def shuffled(self, items: Iterable[T]) -> list[T]:
        return sorted(items, key=lambda _: self._next())


@dataclass(frozen=True, slots=True)
class Row:
    """A product to be drawn. `title_of` and `image_of` are its own number, or the number of its twin."""

    seed: int
    number: int  # unique in the catalogue, training and test
    key: int
    kind: Kind
    title_of: int
    image_of: int
    quality: int = JPEG_QUALITY
    damage: str = ""

    @property
    def ids(self) -> tuple[int, int]:
        """productid and imageid: they rise with gaps, so that no two products share one."""
        draw = Draw(self.seed, self.number, "ids")
        product_id = 10_000_000 + 137 * self.number + draw.between(0, 136)
        image_id = 900_000_000 + 997 * self.number + draw.between(0, 996)
        return product_id, image_id

    def colour(self, number: int) -> str:
        """The colour that the title and the image of a product agree on; a twin's, if `number` is the twin's."""
        return Draw(self.seed, number, "colour").pick(self.kind.colours)


def plan_rows(seed: int, count: int, *, first_number: int, first_key: int) -> list[Row]:
    """`count` products, first every type twice in any order, then each type as often as its weight says."""
    kinds = load_words().kinds
    every_kind_twice = Draw(seed, first_number, "kinds").shuffled([*kinds, *kinds])
    recent: dict[Kind, deque[Row]] = {kind: deque(maxlen=20) for kind in kinds}
    damages = _damages(seed, count, first_number)
    rows = []
    for index in range(count):
        number = first_number + index
        draw = Draw(seed, number, "plan")
        first = index < len(every_kind_twice)
        kind = every_kind_twice[index] if first else draw.weighted(kinds)
        row = Row(seed, number, first_key + index, kind, number, number, damage=damages.get(index, ""))
        rows.append(row if first else _perhaps_twin(row, draw.pick(recent[kind]), draw))
        recent[kind].append(rows[-1])
    return rows


def _perhaps_twin(row: Row, other: Row, draw: Draw) -> Row:
    """7.6 % of the products show another one's image, some of them encoded anew, and 1.2 % have its title."""
    twin = draw.weighted({"": 91.8, "image": 4.5, "image anew": 2.5, "title": 0.6, "title, image": 0.6})
    if "title" in twin:
        row = replace(row, title_of=other.title_of)
    if "image" in twin:
        quality = TWIN_JPEG_QUALITY if "anew" in twin else other.quality
        row = replace(row, image_of=other.image_of, quality=quality)
    return row


def _damages(seed: int, count: int, first_number: int) -> dict[int, str]:
    """Three broken images by row 1,000, and one in every 500 rows from there on."""
    steps = [FIRST_BROKEN_ROW, 460, 720, *range(1000, count + 500, 500)]
    broken = [
        Draw(seed, first_number + low, "damage").between(low, high - 1) for low, high in itertools.pairwise(steps)
    ]
    return dict(zip(broken, itertools.cycle(["truncated", "empty", "missing"]), strict=False))

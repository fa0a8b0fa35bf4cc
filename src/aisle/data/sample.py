"""The generated catalogue behind `--source sample`: everything in it is invented, nothing is downloaded.

`write_sample` makes a folder in the challenge's layout (see `raw`), with the dirt of the real data: missing
descriptions, HTML, entities, mojibake, twins, a few broken images, types of very unequal size. The words and
shapes that it is made of stand in `sample_words.toml`.

The same rows and seed give the same bytes on every machine and in every run. Every product has generators
of its own, so product i is the same in a catalogue of any size, and memory does not grow with the images.
A product takes about a millisecond; Pillow draws and encodes under the interpreter's lock, so threads would
gain nothing.
"""

from __future__ import annotations

import bisect
import csv
import itertools
import random
import re
import tomllib
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from html.entities import codepoint2name
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, ImageDraw

from aisle.catalog import TYPES_FILE
from aisle.data.raw import IMAGE_FOLDERS, IMAGES_ZIP, LABELS_FILE, TEST_FILE, TRAIN_FILE, image_stem
from aisle.errors import UsageError
from aisle.files import atomic_path, write_bytes
from aisle.progress import Progress

T = TypeVar("T")
Colour = tuple[int, int, int]
Corners = tuple[int, int, int, int]  # left, top, right, bottom

TYPES_PATH = Path(__file__).with_name("rakuten_types.csv")
WORDS_PATH = Path(__file__).with_name("sample_words.toml")

FEWEST_ROWS, MOST_ROWS = 54, 100_000
TRAIN_ROWS_PER_TEST_ROW = 9
NO_DESCRIPTION = 0.35
VAGUE_TITLE = 0.11  # fits several types: the reason why no model gets every title right
ODD_IMAGE = 0.10  # shows something else than the products of its type do
FIRST_BROKEN_ROW = 200  # a tiny catalogue is clean, so that tests of other things stay simple
MOST_TITLE_WORDS = 25
IMAGE_SIDE = 500
JPEG_QUALITY, TWIN_JPEG_QUALITY = 82, 60


def write_sample(folder: Path, *, rows: int = 2700, seed: int = 0) -> None:
    """Write a catalogue of `rows` labelled products and a ninth as many unlabelled ones into `folder`.

    Each file is whole or absent, and the images come first: a folder without the tables is unfinished.
    Raises UsageError unless 54 <= rows <= 100,000 (at least two products of each of the 27 types).
    """
    if not FEWEST_ROWS <= rows <= MOST_ROWS:
        raise UsageError(
            f"a sample catalogue has {FEWEST_ROWS:,} to {MOST_ROWS:,} rows, not {rows:,}",
            hint="Choose a number between the two.",
        )
    train = _plan(seed, rows, first_number=0, first_key=0)
    test = _plan(seed, rows // TRAIN_ROWS_PER_TEST_ROW, first_number=MOST_ROWS, first_key=rows)
    _write_images(folder / IMAGES_ZIP, dict(zip(IMAGE_FOLDERS, (train, test), strict=True)))
    write_bytes(folder / TYPES_FILE, TYPES_PATH.read_bytes())
    _write_products(folder / TEST_FILE, test)
    _write_products(folder / TRAIN_FILE, train)
    _write_table(folder / LABELS_FILE, ["", "prdtypecode"], ([row.key, row.kind.code] for row in train))


class _Draw:
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


# --- What sample_words.toml says


@dataclass(frozen=True, slots=True)
class _Shape:
    """One shape of a layout; `box` is x, y, width and height in percent of the picture."""

    form: str
    repeat: int
    optional: bool
    box: tuple[int, int, int, int]
    colour: str

    @classmethod
    def parse(cls, text: str) -> _Shape:
        kind, x, y, width, height, colour = text.split()
        form, _, repeat = kind.rstrip("?").partition("*")
        return cls(form, int(repeat or 1), kind.endswith("?"), (int(x), int(y), int(width), int(height)), colour)


@dataclass(frozen=True, slots=True, eq=False)
class _Kind:
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
    layouts: list[list[_Shape]]


@dataclass(frozen=True, slots=True)
class _Words:
    kinds: Mapping[_Kind, float]  # with its weight
    colours: Mapping[str, Colour]


@cache
def _words() -> _Words:
    table = tomllib.loads(WORDS_PATH.read_text(encoding="utf-8"))
    kinds = [_kind(code, table) for code in table["types"]]
    colours = {name: (red, green, blue) for name, (red, green, blue) in table["colours"].items()}
    return _Words({kind: kind.weight for kind in kinds}, colours)


def _kind(code: str, table: Mapping[str, Any]) -> _Kind:
    own = table["types"][code]
    family = table["families"][own["family"]]
    lists = {name: _entries(text) for name, text in {**table["lists"], "noun": own["noun"]}.items()}
    return _Kind(
        code=code,
        weight=own["weight"],
        titles=own["titles"],
        vague=family["titles"],
        tails=family["tails"],
        facts=own["facts"],
        sentences=family["sentences"] + table["common"]["sentences"],
        lists=lists,
        colours=_entries(own["colours"]),
        layouts=[[_Shape.parse(text) for text in table["layouts"][name]] for name in _entries(own["layouts"])],
    )


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",")]


# --- The plan: which product is of which type, which ones are twins, which images are broken


@dataclass(frozen=True, slots=True)
class _Row:
    """A product to be drawn. `title_of` and `image_of` are its own number, or the number of its twin."""

    seed: int
    number: int  # unique in the catalogue, training and test
    key: int
    kind: _Kind
    title_of: int
    image_of: int
    quality: int = JPEG_QUALITY
    damage: str = ""

    @property
    def ids(self) -> tuple[int, int]:
        """productid and imageid: they rise with gaps, so that no two products share one."""
        draw = _Draw(self.seed, self.number, "ids")
        product_id = 10_000_000 + 137 * self.number + draw.between(0, 136)
        image_id = 900_000_000 + 997 * self.number + draw.between(0, 996)
        return product_id, image_id


def _plan(seed: int, count: int, *, first_number: int, first_key: int) -> list[_Row]:
    kinds = _words().kinds
    every_kind_twice = _Draw(seed, first_number, "kinds").shuffled([*kinds, *kinds])
    recent: dict[_Kind, deque[_Row]] = {kind: deque(maxlen=20) for kind in kinds}
    damages = _damages(seed, count, first_number)
    rows = []
    for index in range(count):
        number = first_number + index
        draw = _Draw(seed, number, "plan")
        first = index < len(every_kind_twice)
        kind = every_kind_twice[index] if first else draw.weighted(kinds)
        row = _Row(seed, number, first_key + index, kind, number, number, damage=damages.get(index, ""))
        rows.append(row if first else _perhaps_twin(row, draw.pick(recent[kind]), draw))
        recent[kind].append(rows[-1])
    return rows


def _perhaps_twin(row: _Row, other: _Row, draw: _Draw) -> _Row:
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
        _Draw(seed, first_number + low, "damage").between(low, high - 1) for low, high in itertools.pairwise(steps)
    ]
    return dict(zip(broken, itertools.cycle(["truncated", "empty", "missing"]), strict=False))


# --- Texts


def _write_products(target: Path, rows: Sequence[_Row]) -> None:
    header = ["", "designation", "description", "productid", "imageid"]
    _write_table(target, header, ([row.key, _title(row), _description(row), *row.ids] for row in rows))


def _write_table(target: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _title(row: _Row) -> str:
    draw = _Draw(row.seed, row.title_of, "title")
    kind, colour = row.kind, _colour(row, row.title_of)
    pattern = draw.pick(kind.vague if draw.chance(VAGUE_TITLE) else kind.titles)
    tails = dict.fromkeys(draw.pick(kind.tails) for _ in range(draw.weighted(TAILS)))
    parts = [_fill(part, kind, colour, draw) for part in [pattern, *tails]]
    words = draw.pick([" ", " ", " - "]).join(parts).replace("- - ", "- ").split()
    text = draw.weighted(LETTER_CASES)(" ".join(words[:MOST_TITLE_WORDS]))
    return draw.weighted(TITLE_SPELLINGS)(text)


def _description(row: _Row) -> str:
    draw = _Draw(row.seed, row.number, "description")
    if draw.chance(NO_DESCRIPTION):
        return ""
    kind, colour = row.kind, _colour(row, row.number)
    count = draw.between(1, 8)
    patterns = [draw.pick(kind.facts if draw.chance(0.3) else kind.sentences) for _ in range(count)]
    spelling = draw.weighted(DESCRIPTION_SPELLINGS)
    sentences = [_fill(pattern, kind, colour, draw) for pattern in dict.fromkeys(patterns)]
    first, *others = [spelling(sentence[:1].upper() + sentence[1:]) for sentence in sentences]
    between, before, after = draw.weighted(DESCRIPTION_LAYOUTS)
    return between.join([f"{before}{first}{after}", *others])


def _colour(row: _Row, number: int) -> str:
    """The colour that the title and the image of a product agree on."""
    return _Draw(row.seed, number, "colour").pick(row.kind.colours)


INNERMOST_SLOT = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)-(\d+)")
ELISION = re.compile(r"\b([Dd])e (?=[AÀEÉÈIÎOÔ])")


def _fill(pattern: str, kind: _Kind, colour: str, draw: _Draw) -> str:
    """Fill the slots of a pattern, the innermost first; `sample_words.toml` says what they may hold."""

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


# --- Images


def _write_images(target: Path, folders: Mapping[str, Sequence[_Row]]) -> None:
    with (
        atomic_path(target) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        Progress("drawing images", total=sum(map(len, folders.values())), unit="images") as progress,
    ):
        for folder, rows in folders.items():
            for row in rows:
                if row.damage != "missing":
                    product_id, image_id = map(str, row.ids)
                    name = f"images/{folder}/{image_stem(product_id, image_id)}.jpg"
                    archive.writestr(_zip_entry(name), _image_file(row))
                progress.add()


def _zip_entry(name: str) -> zipfile.ZipInfo:
    # Left alone, the date would differ from run to run, and the system and the mode between machines.
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    return entry


def _image_file(row: _Row) -> bytes:
    if row.damage == "empty":
        return b""
    out = BytesIO()
    _picture(row).save(out, "JPEG", quality=row.quality)
    content = out.getvalue()
    return content[: len(content) // 3] if row.damage == "truncated" else content


def _picture(row: _Row) -> Image.Image:
    draw = _Draw(row.seed, row.image_of, "image")
    shown = draw.weighted(_words().kinds) if draw.chance(ODD_IMAGE) else row.kind
    palette = _palette(_colour(row, row.image_of), draw)
    image = _background(palette, draw)
    canvas = ImageDraw.Draw(image)
    view = _View(draw.between(65, 105), draw.between(-9, 9), draw.between(-9, 9), draw.chance(0.4))
    for shape in draw.pick(shown.layouts):
        if not (shape.optional and draw.chance(0.5)):
            for place, box in enumerate(_boxes(shape, draw)):
                shade = 100 - 15 * (place % 3)  # books side by side are not all of one colour
                _draw_form(canvas, shape.form, view.corners(*box), _shaded(palette[shape.colour], shade))
    return image


def _palette(colour: str, draw: _Draw) -> dict[str, Colour]:
    """The colours by name, and this product's own: `main`, `second`, `dark`, `pale`."""
    colours = _words().colours
    main = _shaded(colours[colour], draw.between(75, 115))
    own = {"main": main, "second": colours[draw.pick(list(colours))]}
    return {**colours, **own, "dark": _shaded(main, 50), "pale": _shaded(main, 35, plus=160)}


def _shaded(colour: Colour, percent: int, *, plus: int = 0) -> Colour:
    red, green, blue = (min(255, part * percent // 100 + plus) for part in colour)
    return red, green, blue


def _background(palette: Mapping[str, Colour], draw: _Draw) -> Image.Image:
    """White as in a shop, one pale colour, or a wall and a floor as at a merchant's home."""
    scene = draw.weighted({"shop": 60, "plain": 15, "home": 25})
    wall = (255, 255, 255) if scene == "shop" else _shaded(palette[draw.pick(list(palette))], 40, plus=140)
    image = Image.new("RGB", (IMAGE_SIDE, IMAGE_SIDE), wall)
    if scene == "home":
        floor = palette[draw.pick(["marron", "beige", "gris", "vert"])]
        image.paste(_shaded(floor, draw.between(60, 115)), (0, draw.between(250, 420), IMAGE_SIDE, IMAGE_SIDE))
    return image


def _boxes(shape: _Shape, draw: _Draw) -> Iterator[tuple[int, int, int, int]]:
    """Where a shape goes, a little larger or smaller than its layout says, once or side by side."""
    x, y, width, height = shape.box
    scale = draw.between(90, 110), draw.between(90, 110)
    for place in range(shape.repeat):
        yield x + place * (width + 2), y, max(1, width * scale[0] // 100), max(1, height * scale[1] // 100)


@dataclass(frozen=True, slots=True)
class _View:
    """Where the camera stands: the picture is scaled and moved (in percent), and perhaps mirrored."""

    scale: int
    right: int
    down: int
    mirrored: bool

    def corners(self, x: int, y: int, width: int, height: int) -> Corners:
        """A box in percent of the picture → its corners in pixels."""
        x = 100 - x - width if self.mirrored else x
        left = (x - 50) * self.scale + (50 + self.right) * 100
        top = (y - 50) * self.scale + (50 + self.down) * 100
        return _px(left), _px(top), _px(left + width * self.scale), _px(top + height * self.scale)


def _px(hundredths_of_a_percent: int) -> int:
    return hundredths_of_a_percent * IMAGE_SIDE // 10_000


def _draw_form(canvas: ImageDraw.ImageDraw, form: str, corners: Corners, colour: Colour) -> None:
    left, top, right, bottom = corners
    match form:
        case "disc":
            canvas.ellipse(corners, fill=colour)
        case "ring":
            canvas.ellipse(corners, outline=colour, width=14)
        case "round":
            canvas.rounded_rectangle(corners, radius=18, fill=colour)
        case "wedge":
            canvas.polygon([((left + right) // 2, top), (right, bottom), (left, bottom)], fill=colour)
        case _:
            canvas.rectangle(corners, fill=colour)

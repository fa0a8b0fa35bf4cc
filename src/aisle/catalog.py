"""The words of the domain: a product, its type, a prediction, the table of types and how it changes."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from io import StringIO
from pathlib import Path
from types import MappingProxyType

from aisle.errors import CatalogError, ImageError

TYPES_FILE = "product_types.csv"
CHANGES_FILE = "product_type_changes.csv"


@dataclass(frozen=True, slots=True)
class Product:
    """One listing, as a merchant wrote it. `image` holds the file's bytes (JPEG, PNG or WebP)."""

    title: str = ""
    description: str = ""
    image: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ProductType:
    """A type of the shop's catalogue. `code` identifies it, `label` names it for people."""

    code: str
    label: str


class Decision(StrEnum):
    ACCEPT = "accept"  # the promise of accuracy holds: take it over without a person
    REVIEW = "review"  # a person should look


@dataclass(frozen=True, slots=True)
class Candidate:
    """A type that a product may have, with its probability in [0, 1]."""

    type: ProductType
    confidence: float


@dataclass(frozen=True, slots=True)
class ImageTraits:
    """What is remembered of an image that a model looked at, and that is not kept.

    Sides in pixels, as the file has them; `brightness` and `saturation` (how far from grey) in [0, 1]. `components`
    are its features along the axes of the bundle's reference, empty where it has none.
    """

    width: int
    height: int
    brightness: float
    saturation: float
    components: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one product: `candidates` by falling confidence, the first is the answer.

    `inputs` names what the answer rests on (`title`, `description`, `image`); `model_version` the bundle, `types_id`
    its table of types; `image_error` says why an image that was given could not be looked at, `image_traits` what one
    that could is like.
    """

    candidates: tuple[Candidate, ...]
    decision: Decision
    inputs: tuple[str, ...]
    model_version: str
    image_error: ImageError | None = None
    image_traits: ImageTraits | None = None
    types_id: str = ""

    @property
    def type(self) -> ProductType:
        return self.candidates[0].type

    @property
    def confidence(self) -> float:
        return self.candidates[0].confidence


class ProductTypes(Mapping[str, ProductType]):
    """The table of types that a catalogue brings: code → type, in the table's order."""

    def __init__(self, types: Iterable[ProductType]) -> None:
        self._by_code: dict[str, ProductType] = {}
        for product_type in types:
            if product_type.code in self._by_code:
                raise CatalogError(f"product type {product_type.code} stands twice in the table of types")
            self._by_code[product_type.code] = product_type

    def __getitem__(self, code: str) -> ProductType:
        return self._by_code[code]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_code)

    def __len__(self) -> int:
        return len(self._by_code)

    @classmethod
    def from_codes(cls, codes: Iterable[str]) -> ProductTypes:
        """A table for a catalogue that brings none: each code is its own name."""
        return cls(ProductType(code, code) for code in sorted(set(codes), key=numbers_first))

    @classmethod
    def from_csv(cls, path: Path) -> ProductTypes:
        """Read `prdtypecode,label`. Raises CatalogError: other columns, a code that is empty or twice there."""
        return cls.from_text(_read_utf8(path), where=path)

    @classmethod
    def from_text(cls, text: str, *, where: Path) -> ProductTypes:
        """As `from_csv`, from the text of the file at `where`."""
        rows = _read_pairs(text, ("prdtypecode", "label"), where)
        if not rows or not all(code for code, _ in rows):
            raise CatalogError("has no rows, or a row without a code", where=where, hint="Give each type its code.")
        try:
            return cls(ProductType(code, label or code) for code, label in rows)
        except CatalogError as error:
            raise CatalogError(error.what, where=where, hint="Keep one of the two.") from None

    def to_csv(self) -> str:
        return _to_csv(("prdtypecode", "label"), ((one.code, one.label) for one in self.values()))

    @property
    def id(self) -> str:
        """Tells one table from another: the first 12 digits of the SHA-256 of its CSV."""
        return hashlib.sha256(self.to_csv().encode()).hexdigest()[:12]


class TypeChanges(Mapping[str, str | None]):
    """What became of earlier types: code → the code of today, None for a type that fell away without a successor.

    >>> TypeChanges({"10": "11", "11": "12", "60": None}).now("10")
    '12'

    A type that stands nowhere here is what it was. Raises CatalogError for a type that becomes itself in the end.
    """

    def __init__(self, becomes: Mapping[str, str | None] = MappingProxyType({})) -> None:
        self._now = _followed(becomes)

    def now(self, code: str) -> str | None:
        """What a type of some earlier table is today; None: it fell away."""
        return self._now.get(code, code)

    def then(self, later: TypeChanges) -> TypeChanges:
        """These changes and, after them, `later` ones, which know better where both say something of a type."""
        both = {code: None if now is None else later.now(now) for code, now in self.items()} | dict(later)
        return TypeChanges({code: now for code, now in both.items() if now != code})

    def check(self, types: ProductTypes, *, where: Path) -> None:
        """Raises CatalogError where the table of types of today, `types`, tells another story."""
        for code, now in self.items():
            if code in types:
                raise CatalogError(
                    f"type {code} has changed, and is in the table of types still",
                    where=where,
                    hint=f"Take it out of {TYPES_FILE}, or out of here: no code is used for another type.",
                )
            if now is not None and now not in types:
                raise CatalogError(
                    f"type {code} becomes {now}, which the table of types does not have",
                    where=where,
                    hint=f"Add {now} to {TYPES_FILE}, or say here what it becomes; nothing: it falls away.",
                )

    def __getitem__(self, code: str) -> str | None:
        return self._now[code]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)

    @classmethod
    def from_csv(cls, path: Path) -> TypeChanges:
        """Read `prdtypecode,becomes`; `becomes` is empty for a type that fell away. Raises CatalogError."""
        return cls.from_text(_read_utf8(path), where=path)

    @classmethod
    def from_text(cls, text: str, *, where: Path) -> TypeChanges:
        """As `from_csv`, from the text of the file at `where`."""
        becomes: dict[str, str | None] = {}
        for code, target in _read_pairs(text, ("prdtypecode", "becomes"), where):
            if not code:
                raise CatalogError("has a row without a code", where=where, hint="Give each type its code.")
            if code in becomes:
                raise CatalogError(f"type {code} stands twice", where=where, hint="Keep one of the two.")
            becomes[code] = target or None
        try:
            return cls(becomes)
        except CatalogError as error:
            raise CatalogError(error.what, where=where, hint=error.hint) from None

    def to_csv(self) -> str:
        """Every type with what it is today, whatever it was meanwhile."""
        return _to_csv(("prdtypecode", "becomes"), ((code, now or "") for code, now in self.items()))


def _followed(becomes: Mapping[str, str | None]) -> dict[str, str | None]:
    """Each code with the end of its way. No part of a way is walked twice."""
    ends: dict[str, str | None] = {}
    for code in becomes:
        way: dict[str, None] = {}  # a set that keeps its order
        now: str | None = code
        while now is not None and now in becomes and now not in ends:
            if now in way:
                round_trip = " → ".join([*list(way)[list(way).index(now) :], now])
                raise CatalogError(
                    f"type {now} becomes itself in the end ({round_trip})", hint="Say of each what it is today."
                )
            way[now] = None
            now = becomes[now]
        end = ends[now] if now is not None and now in ends else now
        ends |= dict.fromkeys(way, end)
    return {code: ends[code] for code in becomes}


def _read_utf8(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CatalogError(f"is not CSV in UTF-8 ({error})", where=path, hint="Convert it first.") from None


def _read_pairs(text: str, columns: tuple[str, str], where: Path) -> list[tuple[str, str]]:
    """Two columns of a CSV, without space around their cells."""
    try:
        reader = csv.DictReader(StringIO(text, newline=""))
        there = set(reader.fieldnames or ())
        first, second = columns
        rows = [((row.get(first) or "").strip(), (row.get(second) or "").strip()) for row in reader]
    except csv.Error as error:
        raise CatalogError(f"is not CSV ({error})", where=where, hint="Write it again as CSV.") from None
    if not set(columns) <= there:
        raise CatalogError(f"has no columns {first} and {second}", where=where, hint="Separate them by a comma.")
    return rows


def _to_csv(columns: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue()


def numbers_first(code: str) -> tuple[int, int, str]:
    """A sorting key: numbers by their value, then words by the alphabet."""
    return (0, int(code), "") if code.isdecimal() and len(code) < 20 else (1, 0, code)

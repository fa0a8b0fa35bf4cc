"""The words of the domain: a product, its type, a prediction, and the table of types."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from io import StringIO
from pathlib import Path

from aisle.errors import CatalogError, ImageError

TYPES_FILE = "product_types.csv"


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
class Prediction:
    """What a model says of one product: `candidates` by falling confidence, the first is the answer.

    `inputs` names what the answer rests on (`title`, `description`, `image`); `model_version` the bundle;
    `image_error` says why an image that was given could not be looked at.
    """

    candidates: tuple[Candidate, ...]
    decision: Decision
    inputs: tuple[str, ...]
    model_version: str
    image_error: ImageError | None = None

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
        try:
            return cls.from_text(path.read_text(encoding="utf-8-sig"), where=path)
        except UnicodeDecodeError as error:
            raise CatalogError(f"is not CSV in UTF-8 ({error})", where=path, hint="Convert it first.") from None

    @classmethod
    def from_text(cls, text: str, *, where: Path) -> ProductTypes:
        """As `from_csv`, from the text of the file at `where`."""
        try:
            reader = csv.DictReader(StringIO(text, newline=""))
            columns = set(reader.fieldnames or ())
            rows = [((row.get("prdtypecode") or "").strip(), (row.get("label") or "").strip()) for row in reader]
        except csv.Error as error:
            raise CatalogError(f"is not CSV ({error})", where=where, hint="Write it again as CSV.") from None
        if not {"prdtypecode", "label"} <= columns:
            raise CatalogError("has no columns prdtypecode and label", where=where, hint="Separate them by a comma.")
        if not rows or not all(code for code, _ in rows):
            raise CatalogError("has no rows, or a row without a code", where=where, hint="Give each type its code.")
        try:
            return cls(ProductType(code, label or code) for code, label in rows)
        except CatalogError as error:
            raise CatalogError(error.what, where=where, hint="Keep one of the two.") from None

    def to_csv(self) -> str:
        out = StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["prdtypecode", "label"])
        writer.writerows((one.code, one.label) for one in self.values())
        return out.getvalue()


def numbers_first(code: str) -> tuple[int, int, str]:
    """A sorting key: numbers by their value, then words by the alphabet."""
    return (0, int(code), "") if code.isdecimal() and len(code) < 20 else (1, 0, code)

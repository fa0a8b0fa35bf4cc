"""The products that the gate measures on: chosen once, from those that no training looks at, and then kept.

A product keeps its side when the catalogue grows, so that the frozen ones are never trained on later. Nor does it
become another one when its type is renumbered or merged: each is kept with the type that it had, which is followed
to today; nor when it is put into a type that there was not when it was frozen. A product whose type fell away is
measured on no more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from aisle.catalog import TypeChanges
from aisle.data.prepare import Prepared
from aisle.data.split import Side
from aisle.errors import InputError
from aisle.files import read_json, write_json
from aisle.logs import get_logger

FROZEN_FILE = "evaluation.json"
CONTENT = ("key", "title", "description", "image")
_OLD_CONTENT = ("key", "type_code", "title", "description", "image")
"""What was hashed, of all products at once, before types could change."""


@dataclass(frozen=True, slots=True)
class FrozenProduct:
    """A product as it was when it was frozen: its type, and the hash of what models look at."""

    type_code: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Frozen:
    """What `evaluation.json` holds: products by key, and the table of types of then."""

    products: Mapping[str, FrozenProduct]
    types: Sequence[str]

    def differences(self, products: Mapping[str, FrozenProduct], changes: TypeChanges) -> list[str]:
        """The keys of what is gone, or changed in a way that the changes of types do not explain."""
        types = {changes.now(code) for code in self.types}

        def is_same(before: FrozenProduct, now: FrozenProduct | None) -> bool:
            today = changes.now(before.type_code)
            if now is None:
                return today is None
            had_to_move = today is None or now.type_code not in types
            return now.sha256 == before.sha256 and (now.type_code == today or had_to_move)

        return [key for key, one in self.products.items() if not is_same(one, products.get(key))]


def frozen_products(
    root: Path, prepared: Prepared, *, changes: TypeChanges | None = None, again: bool = False
) -> pl.DataFrame:
    """The frozen rows of `prepared`; the first time, or `again`, its test side is frozen.

    `changes` is what became of earlier types, by default as the catalogue says. Raises InputError where rows are gone
    or changed since, or where there are none.
    """
    path = root / FROZEN_FILE
    table = prepared.products().filter(side=Side.TEST.value).sort("key")
    if again or not path.is_file():
        if not len(table):
            raise InputError("has no product on its test side to measure on", where=prepared.folder)
        _write(path, Frozen(_products(table), list(prepared.types())))
        get_logger(__name__).info("evaluation set frozen", products=len(table), file=str(path))
        return table
    changes = prepared.changes() if changes is None else changes
    frozen = _read(path, table, prepared)
    lost = frozen.differences(_products(table), changes)
    if lost:
        raise InputError(
            f"of {len(frozen.products)} frozen products {len(lost)} are gone or changed in this catalogue"
            f" (first: {lost[0]})",
            where=path,
            hint="`aisle registry freeze` chooses anew.",
        )
    rows = table.filter(pl.col("key").is_in(list(frozen.products)))
    if not len(rows):
        raise InputError(
            "the types of all frozen products fell away", where=path, hint="`aisle registry freeze` chooses anew."
        )
    if left_out := len(frozen.products) - len(rows):
        get_logger(__name__).info("frozen products whose types fell away are left out", rows=left_out)
    return rows


def _products(rows: pl.DataFrame) -> dict[str, FrozenProduct]:
    content = rows.select(CONTENT).iter_rows()
    return {row[0]: FrozenProduct(code, _digest([row])) for code, row in zip(rows["type_code"], content, strict=True)}


def _read(path: Path, test_side: pl.DataFrame, prepared: Prepared) -> Frozen:
    try:
        found = read_json(path)
        if "products" not in found:
            return _of_old_kind(path, found, test_side, prepared)
        products = {key: FrozenProduct(**one) for key, one in found["products"].items()}
        return Frozen(products, [*map(str, found["types"])])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError("cannot be read", where=path, hint="`aisle registry freeze` chooses anew.") from None


def _of_old_kind(path: Path, found: dict[str, Any], test_side: pl.DataFrame, prepared: Prepared) -> Frozen:
    """A list of before types could change: it is written anew once it was found to be the same."""
    rows = test_side.filter(pl.col("key").is_in(found["keys"]))
    if _digest(rows.select(_OLD_CONTENT).rows()) != found["sha256"]:
        raise InputError(
            f"of {len(found['keys'])} frozen products some are gone or changed in this catalogue",
            where=path,
            hint="`aisle registry freeze` chooses anew.",
        )
    frozen = Frozen(_products(rows), list(prepared.types()))
    _write(path, frozen)
    return frozen


def _write(path: Path, frozen: Frozen) -> None:
    write_json(path, asdict(frozen))


def _digest(rows: list[tuple[Any, ...]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()

"""The products that the gate measures on: chosen once, from those that no training looks at, and then kept.

A product keeps its side when the catalogue grows, so that the frozen ones are never trained on later. Nor does it
become another one when its type is renumbered or merged: each is kept with the type that it had, which is followed to
today. A product whose type fell away is measured on no more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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
class Frozen:
    """A product as it was when it was frozen: its type, and the hash of what models look at."""

    type_code: str
    sha256: str


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
        _write(path, _as_frozen(table))
        get_logger(__name__).info("evaluation set frozen", products=len(table), file=str(path))
        return table
    changes = prepared.changes() if changes is None else changes
    frozen = _read(path, table)
    now = _as_frozen(table)
    lost = [key for key, one in frozen.items() if not _is_same(one, now.get(key), changes)]
    if lost:
        raise InputError(
            f"of {len(frozen)} frozen products {len(lost)} are gone or changed in this catalogue (first: {lost[0]})",
            where=path,
            hint="`aisle registry freeze` chooses anew.",
        )
    rows = table.filter(pl.col("key").is_in(list(frozen)))
    if not len(rows):
        raise InputError(
            "the types of all frozen products fell away", where=path, hint="`aisle registry freeze` chooses anew."
        )
    if len(rows) < len(frozen):
        get_logger(__name__).info("frozen products whose types fell away are left out", rows=len(frozen) - len(rows))
    return rows


def _is_same(before: Frozen, now: Frozen | None, changes: TypeChanges) -> bool:
    """Whether nothing changed but what the changes of types explain."""
    today = changes.now(before.type_code)
    if today is None:  # whoever is still here was given another type, as had to be
        return now is None or now.sha256 == before.sha256
    return now == Frozen(today, before.sha256)


def _as_frozen(rows: pl.DataFrame) -> dict[str, Frozen]:
    content = rows.select(CONTENT).iter_rows()
    return {row[0]: Frozen(code, _digest([row])) for code, row in zip(rows["type_code"], content, strict=True)}


def _read(path: Path, test_side: pl.DataFrame) -> dict[str, Frozen]:
    try:
        found = read_json(path)
        if "products" not in found:
            return _of_old_kind(path, found, test_side)
        return {key: Frozen(**one) for key, one in found["products"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError("cannot be read", where=path, hint="`aisle registry freeze` chooses anew.") from None


def _of_old_kind(path: Path, found: dict[str, Any], test_side: pl.DataFrame) -> dict[str, Frozen]:
    """A list of before types could change: it is written anew once it was found to be the same."""
    rows = test_side.filter(pl.col("key").is_in(found["keys"]))
    if _digest(rows.select(_OLD_CONTENT).rows()) != found["sha256"]:
        raise InputError(
            f"of {len(found['keys'])} frozen products some are gone or changed in this catalogue",
            where=path,
            hint="`aisle registry freeze` chooses anew.",
        )
    frozen = _as_frozen(rows)
    _write(path, frozen)
    return frozen


def _write(path: Path, frozen: Mapping[str, Frozen]) -> None:
    write_json(path, {"products": {key: asdict(one) for key, one in frozen.items()}})


def _digest(rows: list[tuple[Any, ...]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()

"""The products that the gate measures on: chosen once, from those that no training looks at, and then kept.

A product keeps its side when the catalogue grows, so that the frozen ones are never trained on later.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import polars as pl

from aisle.data.prepare import Prepared
from aisle.data.split import Side
from aisle.errors import InputError
from aisle.files import read_json, write_json
from aisle.logs import get_logger

FROZEN_FILE = "evaluation.json"
CONTENT = ("key", "type_code", "title", "description", "image")


def frozen_products(root: Path, prepared: Prepared, *, again: bool = False) -> pl.DataFrame:
    """The frozen rows of `prepared`; the first time, or `again`, its test side is frozen.

    Raises InputError where rows are gone or changed since, or where there are none.
    """
    path = root / FROZEN_FILE
    table = prepared.products()
    if again or not path.is_file():
        rows = table.filter(side=Side.TEST.value).sort("key")
        if not len(rows):
            raise InputError("has no product on its test side to measure on", where=prepared.folder)
        write_json(path, {"keys": rows["key"].to_list(), "sha256": _digest(rows)})
        get_logger(__name__).info("evaluation set frozen", products=len(rows), file=str(path))
        return rows
    try:
        frozen = read_json(path)
        rows = table.filter(pl.col("key").is_in(frozen["keys"]), side=Side.TEST.value).sort("key")
        same = _digest(rows) == frozen["sha256"]
    except (ValueError, TypeError, KeyError):
        raise InputError("cannot be read", where=path, hint="`aisle registry freeze` chooses anew.") from None
    if not same:
        raise InputError(
            f"of {len(frozen['keys'])} frozen products some are gone or changed in this catalogue",
            where=path,
            hint="`aisle registry freeze` chooses anew.",
        )
    return rows


def _digest(rows: pl.DataFrame) -> str:
    digest = hashlib.sha256()
    for row in rows.select(CONTENT).iter_rows():
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()

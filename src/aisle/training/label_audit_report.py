"""The report of a label audit: a table for machines and spreadsheets, and a page with the images.

suspects.csv         every suspect, the clearest first
contradictions.csv   products that are the same and are labelled with different types
labels.html          the clearest ones for people: one file, without script, that loads nothing
labels.json          how many there are, and what became of the models without them
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from aisle.catalog import ProductType, ProductTypes
from aisle.data.images import Images
from aisle.errors import ImageError
from aisle.excerpts import no_formula
from aisle.files import write_json, write_text
from aisle.model.bundle import label_of
from aisle.pages import write_page
from aisle.training.label_audit import Comparison, LabelAudit, Suspect
from aisle.training.report import thumbnail

SUSPECTS_FILE = "suspects.csv"
CONTRADICTIONS_FILE = "contradictions.csv"
PAGE_FILE = "labels.html"
JSON_FILE = "labels.json"
MOST_CONTRADICTIONS = 50
MOST_PAIRS = 15


@dataclass(frozen=True, slots=True)
class Shown:
    """A suspect with what a person needs to judge it."""

    suspect: Suspect
    title: str
    description: str
    label: ProductType
    suggested: ProductType
    thumbnail: str
    image_note: str


def write_label_audit(
    folder: Path,
    audit: LabelAudit,
    types: ProductTypes,
    images: Images | None,
    *,
    top: int,
    data_hash: str,
    comparisons: Sequence[Comparison] = (),
) -> dict[str, Any]:
    """Write all files; the page has the `top` clearest suspects. Gives back what the JSON has.

    `data_hash` is that of the prepared catalogue, so that it can be told from what the catalogue is later.
    """
    counts = {
        "data_hash": data_hash,
        "products": len(audit.table),
        "suspects": len(audit.suspects),
        "share": round(len(audit.suspects) / max(len(audit.table), 1), 4),
        "contradictions": len(audit.contradictions),
        "comparisons": [asdict(one) for one in comparisons],
    }
    write_text(folder / SUSPECTS_FILE, _table([_line(one, audit, types) for one in audit.suspects], _COLUMNS))
    write_text(folder / CONTRADICTIONS_FILE, _table(list(_pairs(audit, types)), _PAIR_COLUMNS))
    write_json(folder / JSON_FILE, counts)
    pairs = Counter((one.label, one.suggested) for one in audit.suspects).most_common(MOST_PAIRS)
    write_page(
        folder / PAGE_FILE,
        "label_audit.html",
        counts=counts,
        shown=[_shown(one, audit, types, images) for one in audit.suspects[:top]],
        pairs=[(label_of(types, label), label_of(types, suggested), count) for (label, suggested), count in pairs],
        contradictions=[
            (one, [(key, label_of(types, label)) for key, label in zip(one.keys, one.labels, strict=True)])
            for one in audit.contradictions[:MOST_CONTRADICTIONS]
        ],
        titles=dict(audit.table.select("key", "title").iter_rows()),
        comparisons=comparisons,
    )
    return counts


_COLUMNS = (
    "key", "title", "label", "label_name", "suggested", "suggested_name", "label_probability",
    "suggested_probability", "words", "models", "image",
)  # fmt: skip
_PAIR_COLUMNS = ("group", "by", "key", "label", "label_name", "title", "image")


def _line(one: Suspect, audit: LabelAudit, types: ProductTypes) -> Mapping[str, Any]:
    return {
        "key": one.key,
        "title": audit.table["title"][one.row],
        "label": one.label,
        "label_name": label_of(types, one.label).label,
        "suggested": one.suggested,
        "suggested_name": label_of(types, one.suggested).label,
        "label_probability": round(one.label_probability, 4),
        "suggested_probability": round(one.suggested_probability, 4),
        "words": " ".join(one.words),
        "models": " ".join(one.models),
        "image": audit.table["image"][one.row] or "",
    }


def _pairs(audit: LabelAudit, types: ProductTypes) -> Iterator[Mapping[str, Any]]:
    products = {key: (title, image) for key, title, image in audit.table.select("key", "title", "image").iter_rows()}
    for group, one in enumerate(audit.contradictions, start=1):
        for key, label in zip(one.keys, one.labels, strict=True):
            title, image = products[key]
            yield {
                "group": group,
                "by": one.by,
                "key": key,
                "label": label,
                "label_name": label_of(types, label).label,
                "title": title,
                "image": image or "",
            }


def _table(lines: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """CSV; without lines its head alone. A text that a spreadsheet would run is quoted by it as text."""
    safe = [{name: no_formula(value) for name, value in line.items()} for line in lines]
    text: str = (pl.DataFrame(safe) if safe else pl.DataFrame(schema=list(columns))).write_csv()
    return text


def _shown(one: Suspect, audit: LabelAudit, types: ProductTypes, images: Images | None) -> Shown:
    row = audit.table.row(one.row, named=True)
    content = None
    if images is not None and row["image"]:
        try:
            content = images.read(row["image"])
        except ImageError:
            content = None
    picture, note = thumbnail(content)
    return Shown(
        suspect=one,
        title=row["title"],
        description=row["description"],
        label=label_of(types, one.label),
        suggested=label_of(types, one.suggested),
        thumbnail=picture,
        image_note=note,
    )

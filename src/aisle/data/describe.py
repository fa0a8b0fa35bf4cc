"""What is in a catalogue: from its accepted rows to the figures that the data report shows.

Texts are taken as the merchants wrote them: lengths are characters before cleaning, and a text of nothing but
spaces counts as missing. All figures are plain values for JSON; equal rows in equal order give equal figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from aisle.catalog import ProductTypes
from aisle.data.language import UNCLEAR, languages_of
from aisle.inputs.text import title_key

Counts = NDArray[np.integer]

LANGUAGE_SAMPLE = 2_000

PERCENTILES = (5, 25, 50, 75, 95, 99)
AGREEMENT_BINS = 20
LARGEST = 10
KEYS_SHOWN = 5
TITLE_SHOWN = 200


def describe(accepted: pl.DataFrame, types: ProductTypes) -> dict[str, Any]:
    """The figures of `accepted`, the rows that the contract let pass (the columns of `validate.PRODUCTS_FILE`)."""
    rows = accepted.with_columns(
        weight=pl.col("weight").cast(pl.Float64),
        no_title=_empty("title"),
        no_description=_empty("description"),
    )
    return {
        "rows": len(rows),
        "types": _types(rows, types),
        "missing": {"title": _share(rows["no_title"]), "description": _share(rows["no_description"])},
        "lengths": {name: _lengths(text_lengths(accepted, name)) for name in ("title", "description")},
        "languages": _languages(rows),
        "duplicates": dict(_duplicates(rows)),
        "images": _images(rows),
        "agreement": _agreement(rows["weight"]),
    }


def text_lengths(rows: pl.DataFrame, column: str) -> Counts:
    """The lengths in characters of the texts that are there."""
    return rows.filter(~_empty(column))[column].str.len_chars().to_numpy()


def _empty(column: str) -> pl.Expr:
    return pl.col(column).str.strip_chars().fill_null("") == ""


def _share(flags: pl.Series) -> float:
    return round(int(flags.sum()) / len(flags), 6) if len(flags) else 0.0


def _types(rows: pl.DataFrame, types: ProductTypes) -> dict[str, dict[str, Any]]:
    """Every type of the table with its rows; a type without a row is there too, with 0."""
    found = rows.group_by("type_code").agg(
        rows=pl.len(), no_description=pl.col("no_description").sum(), agreement=pl.col("weight").mean()
    )
    by_code = {row["type_code"]: row for row in found.iter_rows(named=True)}
    nothing = {"rows": 0, "no_description": 0, "agreement": 1.0}
    figures = {}
    for code, one in types.items():
        row = by_code.get(code, nothing)
        figures[code] = {
            "label": one.label,
            "rows": row["rows"],
            "share": round(row["rows"] / max(len(rows), 1), 6),
            "missing_descriptions": round(row["no_description"] / max(row["rows"], 1), 6),
            "agreement": round(row["agreement"], 6),
        }
    return figures


def _lengths(lengths: Counts) -> dict[str, int]:
    """Nearest-rank percentiles, so that each is the length of a text; {} where there is no text."""
    if not len(lengths):
        return {}
    parts = {f"p{part}": _percentile(lengths, part) for part in PERCENTILES}
    return {"shortest": int(lengths.min()), **parts, "longest": int(lengths.max())}


def _percentile(values: Counts, part: float) -> int:
    return int(np.percentile(values, part, method="inverted_cdf"))


def _languages(rows: pl.DataFrame) -> dict[str, Any]:
    """An estimate from titles, taken evenly over the table: {"sampled": n, "shares": {language: share}}."""
    titles = rows.filter(~pl.col("no_title"))["title"]
    if not len(titles):
        return {"sampled": 0, "shares": {}}
    taken = np.unique(np.linspace(0, len(titles) - 1, min(len(titles), LANGUAGE_SAMPLE)).round().astype(int))
    # A title of nothing but markup is in no language either.
    counts = Counter(language or UNCLEAR for language in languages_of(titles.gather(taken)))
    shares = {language: round(counts[language] / len(taken), 6) for language in sorted(counts)}
    return {"sampled": len(taken), "shares": shares}


def _duplicates(rows: pl.DataFrame) -> Iterator[tuple[str, dict[str, Any]]]:
    """By each way in which two products count as the same: how many groups, and the largest of them."""
    title = pl.Series(map(title_key, rows["title"].fill_null("")), dtype=pl.String).replace("", None)
    yield "image_file", _groups(rows, rows["image_sha256"])
    yield "image_look", _groups(rows, rows["image_fingerprint"])
    yield "title", _groups(rows, title)


def _groups(rows: pl.DataFrame, same: pl.Series) -> dict[str, Any]:
    groups = (
        rows.select("key", "title", "type_code", same=same)
        .drop_nulls("same")
        .group_by("same", maintain_order=True)
        .agg(
            pl.col("key"),
            pl.col("title").first(),
            pl.col("type_code"),
            rows=pl.len(),
            types=pl.col("type_code").n_unique(),
        )
        .filter(pl.col("rows") > 1)
        .sort("rows", descending=True, maintain_order=True)
    )
    mixed = groups.filter(pl.col("types") > 1)
    return {
        "groups": len(groups),
        "rows": int(groups["rows"].sum()),
        "mixed_groups": len(mixed),
        "mixed_rows": int(mixed["rows"].sum()),
        "largest": [_group(row) for row in groups.head(LARGEST).iter_rows(named=True)],
    }


def _group(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "rows": row["rows"],
        "title": (row["title"] or "")[:TITLE_SHOWN],
        "keys": row["key"][:KEYS_SHOWN],
        "types": dict(Counter(row["type_code"]).most_common()),
    }


def _images(rows: pl.DataFrame) -> dict[str, Any]:
    """Formats and sizes; {"rows": 0} for a catalogue without images."""
    images = rows.drop_nulls("image_sha256")
    if not len(images):
        return {"rows": 0}
    sizes = (
        images.group_by("image_width", "image_height")
        .agg(rows=pl.len())
        .sort(["rows", "image_width", "image_height"], descending=[True, False, False])
    )
    formats = images["image_format"].value_counts().sort(["count", "image_format"], descending=[True, False])
    return {
        "rows": len(images),
        "files": images["image_sha256"].n_unique(),
        "formats": dict(formats.iter_rows()),
        "sizes": len(sizes),
        "largest_sizes": [
            {"width": width, "height": height, "rows": count}
            for width, height, count in sizes.head(LARGEST).iter_rows()
        ],
        "width": _range(images["image_width"].to_numpy()),
        "height": _range(images["image_height"].to_numpy()),
    }


def _range(values: Counts) -> dict[str, int]:
    return {
        "smallest": int(values.min()),
        "median": _percentile(values, 50),
        "largest": int(values.max()),
    }


def _agreement(weights: pl.Series) -> dict[str, Any]:
    """How sure the labels are; {} where every row has the weight 1. Bin i holds ((i) / 20, (i + 1) / 20]."""
    if not len(weights) or bool((weights == 1).all()):
        return {}
    edges = np.arange(1, AGREEMENT_BINS + 1) / AGREEMENT_BINS
    bins = np.searchsorted(edges, weights.to_numpy(), side="left")
    return {
        "mean": round(float(weights.to_numpy().mean()), 6),
        "full": _share(weights == 1),
        "bins": np.bincount(bins, minlength=AGREEMENT_BINS).tolist(),
    }

"""The data sheet of a bundle: what the catalogue is like that it learnt from, in Markdown.

After T. Gebru et al., Datasheets for Datasets, arXiv:1803.09010: as many of its questions as the catalogue itself
answers. What only the shop knows (who wrote it, on which terms) is said to be the shop's to add.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import polars as pl

from aisle.catalog import ProductTypes
from aisle.data.describe import text_lengths
from aisle.data.prepare import Prepared
from aisle.data.split import Side
from aisle.model.reference import Reference
from aisle.training.card import percent_of, table, wrapped

LANGUAGES = 6


def data_sheet(prepared: Prepared, reference: Reference | None) -> str:
    """Of the prepared catalogue; the languages are those of the rows of `reference`, which has them already."""
    products = prepared.products()
    parts = (
        ["# Data sheet", "", f"Of the catalogue with the data hash `{prepared.data_hash}`."],
        _motivation(),
        _composition(products, prepared.types()),
        _texts(products, reference),
        _images(products),
        _labels(products),
        _cleaning(prepared, products),
        _sides(products, prepared),
        _use(),
    )
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _motivation() -> list[str]:
    return [
        "## Motivation",
        "",
        wrapped(
            "A shop's catalogue, with the product type of each product, so that new products can be given theirs. "
            "It was made to sell products by; learning from it came later. Who may use it on which terms is the "
            "shop's to say: aisle takes what it is given, and does not know the contract behind it."
        ),
    ]


def _composition(products: pl.DataFrame, types: ProductTypes) -> list[str]:
    rows = dict(products.group_by("type_code").len().iter_rows())

    def lines() -> Iterator[list[str]]:
        for code, one in types.items():
            yield [code, one.label, str(rows.get(code, 0)), percent_of(rows.get(code, 0), len(products))]

    return [
        "## Composition",
        "",
        wrapped(
            f"{len(products)} products of {len(types)} types. A product is a title, a description, an image, as "
            "far as they are there, and one type."
        ),
        "",
        *table(("code", "type", "products", "share"), lines()),
    ]


def _texts(products: pl.DataFrame, reference: Reference | None) -> list[str]:
    missing = {name: int((products[name].fill_null("") == "").sum()) for name in ("title", "description")}
    lines = [f"- without {name}: {count} ({percent_of(count, len(products))})" for name, count in missing.items()]
    for field in ("title", "description"):
        lengths = text_lengths(products, field)
        if len(lengths):
            lines.append(
                f"- a {field} has {int(np.median(lengths))} characters at the median, {lengths.max()} at most"
            )
        if reference is not None and (known := [one for one in reference.rows.names[f"{field}_language"] if one]):
            lines.append(f"- {field}s by language, an estimate from {len(known)} of them: {_shares(known)}")
    return ["## Texts", "", *lines]


def _shares(languages: list[str]) -> str:
    counts = sorted(Counter(languages).items(), key=lambda one: (-one[1], one[0]))
    named = [f"{language} {percent_of(count, len(languages))}" for language, count in counts[:LANGUAGES]]
    others = sum(count for _, count in counts[LANGUAGES:])
    return ", ".join([*named, *([f"others {percent_of(others, len(languages))}"] if others else [])])


def _images(products: pl.DataFrame) -> list[str]:
    images = products["image_sha256"].drop_nulls()
    return [
        "## Images",
        "",
        f"- with an image: {len(images)} ({percent_of(len(images), len(products))})",
        f"- different files: {images.n_unique()}",
    ]


def _labels(products: pl.DataFrame) -> list[str]:
    weights = products["weight"].to_numpy()
    sure = int((weights == 1).sum())
    agreed = (
        "Every label counts in full: the catalogue says nothing of how sure they are."
        if sure == len(products)
        else f"Labels are agreed on by {weights.mean():.1%} on average; {percent_of(sure, len(products))} in full. "
        "A label counts in learning by its agreement."
    )
    return ["## Labels", "", agreed, "`aisle labels audit` lists those that are likely wrong."]


def _cleaning(prepared: Prepared, products: pl.DataFrame) -> list[str]:
    sizes = products.group_by("group").len()["len"]
    repeated = sizes.filter(sizes > 1)
    found = prepared.contract
    reasons = ", ".join(f"{name} {count}" for name, count in sorted(found.get("reasons", {}).items()))
    refused = (
        [
            f"- of {found['rows']} rows {found['quarantined']} broke the data contract and are not learnt from"
            + (f": {reasons}" if reasons else ""),
            f"- {found['retired']} rows are of types that fell away",
        ]
        if found
        else ["- how many rows broke the data contract is not known: it was prepared by an older aisle"]
    )
    return [
        "## Collection and cleaning",
        "",
        *refused,
        wrapped(
            f"- {int(repeated.sum())} products are duplicates of another one, by title or image, in "
            f"{len(repeated)} groups"
        ),
        "- markup, entities and broken characters are taken out of texts; accents and numbers stay",
    ]


def _sides(products: pl.DataFrame, prepared: Prepared) -> list[str]:
    meaning = {
        Side.TRAIN: "learnt from",
        Side.VALIDATION: "calibrated and decided on",
        Side.TEST: "measured on",
        Side.BRIDGE: "left out: they would join two sides",
    }
    lines = ([side.value, str(prepared.counts[side.value]), meaning[side]] for side in Side)
    return [
        "## Sides",
        "",
        wrapped(
            "By a hash of each product's group (same title or same image), so that no product is learnt from "
            "whose twin is measured on, and a product keeps its side when the catalogue grows."
        ),
        "",
        *table(("side", "products", "is"), lines),
        *(["", f"Unevenly on the sides: {', '.join(prepared.uneven_types)}."] if prepared.uneven_types else []),
    ]


def _use() -> list[str]:
    return [
        "## Use and upkeep",
        "",
        wrapped(
            "- It is for learning and measuring product types of this shop. Merchants wrote the texts: personal "
            "data, where someone put it there, is not taken out."
        ),
        "- A bundle holds keys and titles of some of these products (`neighbours.json`), to explain answers by.",
        "- DVC keeps its versions where the shop uses it; corrections of people are added by `aisle retrain`.",
    ]

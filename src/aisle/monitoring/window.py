"""The window: the products that are compared with the reference, from the database or from a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from aisle.batch.predicting import batched_rows
from aisle.batch.table import ProductRow, product_rows, read_product_table
from aisle.catalog import ImageTraits, Prediction
from aisle.data import raw
from aisle.data.images import Images, open_given_images
from aisle.model.bundle import Bundle
from aisle.model.predictor import Predictor
from aisle.progress import Progress
from aisle.store.predictions import PredictionRecord
from aisle.training.observe import Answered

MOST_PRODUCTS = 5_000
"""More products make no drift that matters easier to see."""


@dataclass(frozen=True, slots=True)
class Example:
    """What a product of the window is called, and who reads its image, where that can still be had."""

    key: str
    image: Callable[[], bytes] | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """Products with what the model said of them, and as many `examples`. `source` says where they are from."""

    source: str
    products: Sequence[Answered] = ()
    examples: Sequence[Example] = field(default=(), repr=False)
    first_at: datetime | None = None
    last_at: datetime | None = None
    has_images: bool = True


def window_of_records(records: Sequence[PredictionRecord], source: str) -> Window:
    """Of what was served, the newest first."""
    return Window(
        source,
        [
            Answered(
                title=one.designation,
                description=one.description,
                has_image=one.image_hash is not None,
                traits=_traits(one.image_facts),
                predicted=one.predicted,
                confidence=one.confidence,
            )
            for one in records
        ],
        [Example(one.product_key or one.id) for one in records],
        records[-1].created_at if records else None,
        records[0].created_at if records else None,
    )


def window_of_table(
    file: Path, bundle: Bundle, *, count: int = MOST_PRODUCTS, images: Path | None = None, threads: int = 0
) -> Window:
    """Of a table's rows, predicted now: `count` of them, taken evenly. Rows that cannot be predicted are left out."""
    found = open_given_images(images) if images is not None else None
    table = read_product_table(file, images=found)
    if len(table) > count:
        table = table[np.linspace(0, len(table) - 1, count).round().astype(int).tolist()]
    products: list[Answered] = []
    examples: list[Example] = []
    named = iter(_examples(table, found))
    with Predictor(bundle, threads=threads) as predictor, Progress("predicting", total=len(table)) as progress:
        for rows in batched_rows(product_rows(table, found)):
            for row, outcome in zip(rows, predictor.predict([one.product for one in rows]), strict=True):
                example = next(named)
                if isinstance(outcome, Prediction):
                    products.append(_answered(row, outcome))
                    examples.append(example)
            progress.add(len(rows))
    return Window(str(file), products, examples, has_images=found is not None)


def _examples(table: pl.DataFrame, images: Images | None) -> Iterator[Example]:
    """Row by row; an image is read again when it is to be shown."""
    rows = [str(row) for row in range(len(table))]
    keys = table["key"].fill_null("").to_list() if "key" in table.columns else rows
    if images is None:
        yield from map(Example, keys)
        return
    for key, stem in zip(keys, raw.image_stems(table), strict=True):
        yield Example(key) if stem is None else Example(key, partial(images.read, stem))


def _answered(row: ProductRow, outcome: Prediction) -> Answered:
    return Answered(
        title=row.product.title,
        description=row.product.description,
        has_image=row.product.image is not None and outcome.image_error is None,
        traits=outcome.image_traits,
        predicted=outcome.type.code,
        confidence=outcome.confidence,
    )


def _traits(facts: dict[str, Any] | None) -> ImageTraits | None:
    """What was recorded of an image; a record that an older version wrote may have less, and then says nothing."""
    if facts is None:
        return None
    try:
        return ImageTraits(
            width=int(facts["width"]),
            height=int(facts["height"]),
            brightness=float(facts["brightness"]),
            saturation=float(facts["saturation"]),
            components=tuple(float(one) for one in facts["components"]),
        )
    except (KeyError, TypeError, ValueError):
        return None

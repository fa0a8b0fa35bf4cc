"""Products in a table: rows of CSV or parquet to products, with the image that belongs to each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path

import polars as pl

from aisle.catalog import Product
from aisle.data import raw
from aisle.data.images import Images
from aisle.errors import CatalogError, ImageError, UsageError

FIELDS = ("title", "description", "image")
NEEDED_FOR_IMAGES = ("product_id", "image_id")
IMAGE_COLUMN = "image"
"""Images that are in the table itself, as bytes."""


@dataclass(frozen=True, slots=True)
class ProductRow:
    """A product and, where its image was to be read and could not be, why."""

    product: Product
    image_error: ImageError | None = None


def read_product_table(path: Path, *, images: Images | None, labelled: bool = False) -> pl.DataFrame:
    """Read a table of products.

    Raises CatalogError for one that has neither texts nor images to look at, or that does not say which of the
    `images` belongs to which product.
    """
    required = (*(("type_code",) if labelled else ()), *(NEEDED_FOR_IMAGES if images is not None else ()))
    table = raw.read_products(path, required=required)
    if images is None and not {"title", "description"} & set(table.columns):
        raise CatalogError(
            "has neither a column 'designation' nor 'description'",
            where=path,
            hint=f"Its columns are {', '.join(map(repr, table.columns))}.",
        )
    return table


def parse_fields(fields: str) -> tuple[str, ...]:
    """`title,image` → ("title", "image"). Raises UsageError for a field that does not exist."""
    chosen = tuple(field.strip() for field in fields.split(",") if field.strip())
    unknown = [field for field in chosen if field not in FIELDS]
    if unknown or not chosen:
        raise UsageError(f"--fields takes {', '.join(FIELDS)}, not {', '.join(unknown) or 'nothing'}")
    return chosen


def product_rows(
    table: pl.DataFrame, images: Images | None, *, fields: tuple[str, ...] = FIELDS
) -> Iterator[ProductRow]:
    """The rows of `table` as products, with those `fields` only; images are read as the iterator moves on."""
    blank = [""] * len(table)

    def column(name: str, field: str) -> list[str]:
        wanted = field in fields and name in table.columns
        return table[name].fill_null("").to_list() if wanted else blank

    titles, descriptions = column("title", "title"), column("description", "description")
    for title, description, read in zip(titles, descriptions, _readers(table, images, fields), strict=True):
        try:
            yield ProductRow(Product(title, description, read()))
        except ImageError as error:
            yield ProductRow(Product(title, description), error)


def _readers(
    table: pl.DataFrame, images: Images | None, fields: tuple[str, ...]
) -> Iterator[Callable[[], bytes | None]]:
    """For each row what gives its image, or None where it has none."""
    if "image" not in fields or (images is None and IMAGE_COLUMN not in table.columns):
        yield from repeat(lambda: None, len(table))
    elif images is None:
        yield from (partial(_itself, image) for image in table[IMAGE_COLUMN])
    else:
        for stem in raw.image_stems(table):
            yield partial(images.read, stem) if stem is not None else lambda: None


def _itself(image: bytes | None) -> bytes | None:
    return image or None

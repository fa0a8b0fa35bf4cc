"""The layout in which a catalogue arrives: the challenge's own file names, in one folder.

    X_train_update.csv    "", designation, description, productid, imageid      the labelled products
    Y_train_CVw08PX.csv   "", prdtypecode                                       their types, by the first column
    X_test_update.csv     as X_train_update.csv                                 optional: products without a type
    images.zip            …/image_train/…, …/image_test/…                       or the folders of these names
    label_agreement.csv   "", agreement                                         optional: a weight in (0, 1] a row
    gold_*.csv            index, designation, …, prdtypecode                    optional: officially labelled rows
    product_types.csv     prdtypecode, label                                    optional: the names of the types

The image of a product is `image_<imageid>_product_<productid>.jpg`; another ending does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import polars as pl

from aisle.catalog import TYPES_FILE, ProductTypes
from aisle.errors import CatalogError, InputError

TRAIN_FILE = "X_train_update.csv"
LABELS_FILE = "Y_train_CVw08PX.csv"
TEST_FILE = "X_test_update.csv"
AGREEMENT_FILE = "label_agreement.csv"
IMAGES_ZIP = "images.zip"
IMAGE_FOLDERS = ("image_train", "image_test")
GOLD_PATTERN = "gold_*.csv"

REQUIRED_FILES = (TRAIN_FILE, LABELS_FILE)
OPTIONAL_FILES = (TEST_FILE, AGREEMENT_FILE, TYPES_FILE)

# The header of the key column is empty in the challenge's files and `index` in others.
COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "": "key",
        "index": "key",
        "key": "key",
        "designation": "title",
        "description": "description",
        "productid": "product_id",
        "product_id": "product_id",
        "imageid": "image_id",
        "prdtypecode": "type_code",
        "agreement": "weight",
    }
)


def challenge_names(columns: Sequence[str]) -> dict[str, str]:
    """Our column names → those of the challenge's files."""
    names = {"key": "", "title": "designation", "product_id": "productid", "image_id": "imageid"}
    return {name: names.get(name, name) for name in columns}


def image_stem(product_id: str, image_id: str) -> str:
    """The image file's name without its ending, as the catalogue's layout has it."""
    return f"image_{image_id}_product_{product_id}"


def read_products(
    path: Path, *, required: Sequence[str] = ("key", "title", "product_id", "image_id")
) -> pl.DataFrame:
    """Read a table of products: every column text or null, under the names of `COLUMNS`.

    Raises CatalogError when a required column is missing, a name stands twice, or the file is not UTF-8 CSV.
    """
    table = read_table(path)
    table = table.rename({name: COLUMNS[name] for name in table.columns if name in COLUMNS}, strict=True)
    missing = [name for name in required if name not in table.columns]
    if missing:
        wanted = [" or ".join(repr(raw) for raw, name in COLUMNS.items() if name == column) for column in missing]
        raise CatalogError(
            f"has no column {', '.join(wanted)}",
            where=path,
            hint=f"Its columns are {', '.join(map(repr, table.columns))}.",
        )
    return table


def read_table(path: Path) -> pl.DataFrame:
    """Read a CSV or parquet file as text columns; empty cells are null. Raises CatalogError."""
    if not path.is_file():
        raise CatalogError("there is no such file", where=path)
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path).cast(pl.String)
        return _read_csv(path)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise CatalogError(_reason(path, error), where=path, hint=_hint(path)) from None


def product_types(folder: Path) -> ProductTypes | None:
    """The table of types that the catalogue brings, None if it brings none."""
    path = folder / TYPES_FILE
    return ProductTypes.from_csv(path) if path.is_file() else None


def check_raw_folder(folder: Path) -> None:
    """Raises InputError unless `folder` holds at least a table of products and their types."""
    if not folder.is_dir():
        raise InputError(
            "there is no such folder", where=folder, hint="`aisle import --source sample` makes a catalogue."
        )
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"is not a catalogue: {' and '.join(missing)} missing",
            where=folder,
            hint="`aisle import --help` names the sources.",
        )


def _read_csv(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, infer_schema=False, encoding="utf8")


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, pl.exceptions.NoDataError):
        return "is empty"
    bad = _first_invalid_utf8(path) if path.suffix != ".parquet" else None
    if bad is not None:
        line, byte = bad
        return f"is not UTF-8: byte 0x{byte:02X} in line {line}"
    return f"cannot be read as a table: {str(error).splitlines()[0]}"


def _hint(path: Path) -> str:
    if path.suffix != ".parquet" and _first_invalid_utf8(path) is not None:
        return f"Convert it first, for example: iconv -f ISO-8859-1 -t UTF-8 {path.name} > converted.csv"
    return ""


def _first_invalid_utf8(path: Path) -> tuple[int, int] | None:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return number, line[error.start]
    return None

"""The layout in which a catalogue arrives: the challenge's own file names, in one folder.

    X_train_update.csv    "", designation, description, productid, imageid      the labelled products
    Y_train_CVw08PX.csv   "", prdtypecode                                       their types, by the first column
    X_test_update.csv     as X_train_update.csv                                 optional: products without a type
    images.zip            …/image_train/…, …/image_test/…                       or the folders of these names
    label_agreement.csv   "", agreement                                         optional: a weight in (0, 1] a row
    checked_*.csv         index, designation, …, prdtypecode                    optional: more to learn from, checked
    gold_*.csv            index, designation, …, prdtypecode                    optional: to measure on, never learnt
    product_types.csv     prdtypecode, label                                    optional: the names of the types
    product_type_changes.csv   prdtypecode, becomes                             optional: what became of earlier types

The image of a product is `image_<imageid>_product_<productid>.jpg`; another ending does no harm.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import polars as pl

from aisle.catalog import CHANGES_FILE, TYPES_FILE, ProductTypes, TypeChanges
from aisle.data import images
from aisle.errors import CatalogError, InputError

TRAIN_FILE = "X_train_update.csv"
LABELS_FILE = "Y_train_CVw08PX.csv"
TEST_FILE = "X_test_update.csv"
AGREEMENT_FILE = "label_agreement.csv"
IMAGES_ZIP, IMAGE_FOLDERS = images.IMAGES_ZIP, images.IMAGE_FOLDERS
CHECKED_PATTERN, GOLD_PATTERN = "checked_*.csv", "gold_*.csv"

image_stem = images.image_stem

RAKUTEN_TYPES = Path(__file__).with_name("rakuten_types.csv")  # the table of types of the challenge

REQUIRED_FILES = (TRAIN_FILE, LABELS_FILE)
OPTIONAL_FILES = (TEST_FILE, AGREEMENT_FILE, TYPES_FILE, CHANGES_FILE)

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


def checked_tables(folder: Path) -> list[Path]:
    """The tables of products whose types somebody looked at."""
    return sorted(folder.glob(CHECKED_PATTERN))


def own_names(path: Path) -> dict[str, str]:
    """Our column names → those that the table at `path`, which `read_products` takes, has for them."""
    if path.suffix == ".parquet":
        columns = list(pl.read_parquet_schema(path))
    else:
        columns = pl.read_csv(path, n_rows=0, infer_schema=False).columns
    return {COLUMNS[name]: name for name in columns if name in COLUMNS}


def image_stems(table: pl.DataFrame) -> list[str | None]:
    """The name of each row's image; None for a product without an image id, which has no image."""
    ids = zip(table["product_id"], table["image_id"], strict=True)
    return [image_stem(product_id or "", image_id) if image_id else None for product_id, image_id in ids]


def read_products(
    path: Path, *, required: Sequence[str] = ("key", "title", "product_id", "image_id")
) -> pl.DataFrame:
    """Read a table of products: every column text or null, under the names of `COLUMNS`.

    Raises CatalogError when a required column is missing, a name stands twice, or the file is not UTF-8 CSV.
    """
    table = read_table(path)
    names = {name: COLUMNS[name] for name in table.columns if name in COLUMNS}
    _check_columns(path, table.columns, list(names.values()), required)
    return table.rename(names)


def read_table(path: Path) -> pl.DataFrame:
    """Read a CSV or parquet file as text columns; empty cells are null. Raises CatalogError."""
    if not path.is_file():
        raise CatalogError("there is no such file", where=path, hint="Give a CSV or parquet file.")
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path).cast(pl.String)
        return _read_csv(path)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise CatalogError(_reason(path, error), where=path, hint=_hint(path)) from None


def write_table(table: pl.DataFrame, path: Path) -> None:
    """Write CSV or parquet, by the ending. Raises OSError, with its number, for what the disk does not take."""
    buffer = io.BytesIO()  # Polars' own errors do not tell a full disk from a table that cannot be written
    table.write_parquet(buffer) if path.suffix == ".parquet" else table.write_csv(buffer)
    path.write_bytes(buffer.getbuffer())


def product_types(folder: Path) -> ProductTypes | None:
    """The table of types that the catalogue brings, None if it brings none."""
    path = folder / TYPES_FILE
    return ProductTypes.from_csv(path) if path.is_file() else None


def type_changes(folder: Path) -> TypeChanges:
    """What became of earlier types, as the catalogue says; none where it says nothing. Raises CatalogError."""
    path = folder / CHANGES_FILE
    return TypeChanges.from_csv(path) if path.is_file() else TypeChanges()


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


def _check_columns(path: Path, columns: Sequence[str], names: Sequence[str], required: Sequence[str]) -> None:
    missing = [name for name in required if name not in names]
    if missing and (bad := _invalid_utf8(path)):
        raise CatalogError(bad, where=path, hint=_hint(path))
    if missing:
        wanted = [" or ".join(repr(raw) for raw, name in COLUMNS.items() if name == column) for column in missing]
        found = ", ".join(map(repr, columns))
        separator = next((one for one in ";\t|" if len(columns) == 1 and one in columns[0]), None)
        hint = f"Separate its cells by commas, not by {separator!r}." if separator else f"Its columns are {found}."
        raise CatalogError(f"has no column {', '.join(wanted)}", where=path, hint=hint)
    twice = [name for name in names if names.count(name) > 1]
    twice += [name for name in columns if f"{name}_duplicated_0" in columns]  # so Polars calls the second one
    if twice:
        raise CatalogError(f"has two columns for {twice[0]!r}", where=path, hint="Remove one of the two.")


def _read_csv(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, infer_schema=False, encoding="utf8")


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, pl.exceptions.NoDataError):
        return "is empty"
    return _invalid_utf8(path) or _ragged(path) or f"cannot be read as a table: {[*str(error).splitlines(), ''][0]}"


def _hint(path: Path) -> str:
    if _invalid_utf8(path):
        return f"Convert it first, for example: iconv -f ISO-8859-1 -t UTF-8 {path.name} > converted.csv"
    if path.suffix == ".parquet":
        return "Write it again as parquet."
    return "Write it again as CSV: a cell with a comma, a quote or a line break needs quotes around it."


def _invalid_utf8(path: Path) -> str:
    """What is wrong with the first line of a CSV file that is not UTF-8; empty if all are."""
    if path.suffix == ".parquet":
        return ""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"is not UTF-8: byte 0x{line[error.start]:02X} in line {number}"
    return ""


def _ragged(path: Path) -> str:
    """What is wrong with the first row of a CSV file that has more cells than the header; empty if none has."""
    if path.suffix == ".parquet":
        return ""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        try:
            wanted = len(next(reader, ()))
            for row in reader:
                if len(row) > wanted:
                    return (
                        f"has {len(row)} cells in the row that ends in line {reader.line_num}, {wanted} in its header"
                    )
        except csv.Error as error:
            return f"cannot be read from line {reader.line_num} on: {error}"
    return ""

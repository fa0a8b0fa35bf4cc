"""A table of products in pieces: how it is cut, and how one piece of it is read, in any process or on any machine.

    source = open_source(place_of("s3://shop/products.parquet"), rows=2048, images=False)
    source.pieces             plain data, a few numbers each
    PieceReader(source).read(source.pieces[7])

A table is a file, or a folder of files with the same columns, CSV or parquet. Its columns get the names of
`data.raw.COLUMNS`; others are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

import polars as pl
import pyarrow as pa

from aisle.batch import csv_file
from aisle.batch.csv_file import CsvLayout
from aisle.batch.parquet_file import KEPT, ParquetTable
from aisle.batch.places import Place
from aisle.batch.table import IMAGE_COLUMN, NEEDED_FOR_IMAGES
from aisle.data import raw
from aisle.errors import CatalogError

PARQUET = ".parquet"
SUFFIXES = (".csv", PARQUET)
KEY_COLUMNS = ("key", "product_id", "image_id")
IMAGE_NAMES = ("image", "image_bytes")
TEXTS = ("title", "description")
CELLS_ERROR = "cells_error"
"""A column of what `read` gives: why the row itself cannot be believed, null where it can."""
CELLS_NOTE = "cells_note"
"""Another one: what was taken as given in a row that can."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """`names`: our column → the file's own. `layout` is None for parquet."""

    place: Place
    version: str
    names: Mapping[str, str]
    layout: CsvLayout | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one file: from byte `start` to before `stop` in a CSV, from row to row in parquet."""

    number: int
    file: int
    start: int
    stop: int
    rows: int


@dataclass(frozen=True, slots=True)
class Source:
    files: tuple[SourceFile, ...]
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)

    @property
    def has_images(self) -> bool:
        """Whether the images are in the table itself."""
        return any(IMAGE_COLUMN in file.names for file in self.files)

    @property
    def keys(self) -> dict[str, str]:
        """The key columns, by the names of the first file that has one."""
        return {
            column: name
            for column in KEY_COLUMNS
            if (name := next((file.names[column] for file in self.files if column in file.names), None)) is not None
        }

    def fingerprint(self) -> list[Any]:
        """Plain JSON that differs where a file or the way it is cut does."""
        files = [[str(file.place), file.version] for file in self.files]
        return [files, [[piece.file, piece.start, piece.stop] for piece in self.pieces]]


def open_source(place: Place, *, rows: int, images: bool, most: int = 0) -> Source:
    """Look at a table and cut it into pieces of at most so many `rows`; with `images` it has to say which is whose.

    Raises CatalogError for a table that cannot be used, or has more than `most` rows (0: as many as it likes),
    InputError and ServiceMissing as `Place.open` does.
    """
    found = place.files(SUFFIXES)
    if not found:
        if place.exists() and not place.is_s3 and place.path.is_dir():
            raise CatalogError("holds no table", where=place, hint="Give a CSV or parquet file, or a folder of them.")
        raise CatalogError("there is no such file", where=place, hint="Give a CSV or parquet file.")
    files: list[SourceFile] = []
    pieces: list[Piece] = []
    total = 0
    for one in found:
        with one.open() as stream:
            file, columns, parts = _looked_at(one, stream, rows)
            _check(file, columns, images=images)
            for start, stop, count in parts:
                pieces.append(Piece(len(pieces), len(files), start, stop, count))
                total += count
                if 0 < most < total:  # before all of it is read: the file may lie, too
                    raise CatalogError(
                        f"has more than {most} rows, which are allowed", where=place, hint="Cut it into several."
                    )
        files.append(file)
    return Source(tuple(files), tuple(pieces))


class PieceReader:
    """Reads pieces of a source; keeps its files open. Not for several threads at once.

    Raises CatalogError for a file that has changed since the source was opened.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stack = ExitStack()
        self._streams: dict[int, BinaryIO] = {}
        self._tables: dict[int, ParquetTable] = {}

    def read(self, piece: Piece) -> pl.DataFrame:
        """The rows of a piece, each column text or null under our name, images as bytes."""
        file, stream = self._source.files[piece.file], self._stream(piece.file)
        if file.layout is not None:
            rows = csv_file.read(stream, file.layout, piece.start, piece.stop, file.place)
            return _csv_frame(rows, file.layout, file.names)
        if piece.file not in self._tables:
            self._tables[piece.file] = ParquetTable(stream, file.place, file.names, cut_cells=TEXTS)
        table = self._tables[piece.file].read(piece.start, piece.stop)
        try:
            return _parquet_frame(table)
        except pl.exceptions.PolarsError as error:
            reason = [*str(error).splitlines(), ""][0]
            raise CatalogError(f"has a column that is no text: {reason}", where=file.place) from None

    def close(self) -> None:
        self._stack.close()

    def _stream(self, file: int) -> BinaryIO:
        if file not in self._streams:
            found = self._source.files[file]
            if found.place.version() != found.version:
                raise CatalogError("has changed since it was looked at", where=found.place, hint="Begin again.")
            self._streams[file] = self._stack.enter_context(found.place.open())
        return self._streams[file]


def _looked_at(
    place: Place, stream: BinaryIO, rows: int
) -> tuple[SourceFile, Sequence[str], Iterator[tuple[int, int, int]]]:
    """The file, all its columns, and its pieces."""
    if place.suffix == PARQUET:
        table = ParquetTable(stream, place)
        names = _own_names(place, table.schema.names, images=_image_columns(table.schema))
        _check_kinds(place, table.schema, names)
        file = SourceFile(place, place.version(), names)
        return file, table.schema.names, ((a, b, b - a) for a, b in table.cut(rows))
    layout = csv_file.examine(stream, place, known=raw.COLUMNS.__contains__)
    file = SourceFile(place, place.version(), _own_names(place, layout.columns), layout)
    return file, layout.columns, csv_file.cut(stream, layout, rows, place)


def _image_columns(schema: pa.Schema) -> list[str]:
    """Columns of bytes, or of structures that hold `bytes`, as other libraries write images."""
    kinds = {name: schema.field(name).type for name in IMAGE_NAMES if name in schema.names}
    return [name for name, kind in kinds.items() if _is_bytes(kind) or _struct_of_bytes(kind)]


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _struct_of_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def _own_names(place: Place, columns: Sequence[str], *, images: Sequence[str] = ()) -> dict[str, str]:
    """Our column → the file's own. Raises CatalogError where there are two for one."""
    names: dict[str, str] = {}
    for name in columns:
        ours = raw.COLUMNS.get(name) if name not in images else IMAGE_COLUMN
        if ours is None:
            continue
        if ours in names:
            raise CatalogError(f"has two columns for {ours!r}", where=place, hint="Remove one of the two.")
        names[ours] = name
    return names


def _check_kinds(place: Place, schema: pa.Schema, names: Mapping[str, str]) -> None:
    for ours, own in names.items():
        kind = schema.field(own).type
        if ours != IMAGE_COLUMN and (pa.types.is_nested(kind) or _is_bytes(kind)):
            raise CatalogError(f"has a column {own!r} of {kind}", where=place, hint="Text or a number is needed.")


def _check(file: SourceFile, columns: Sequence[str], *, images: bool) -> None:
    hint = f"Its columns are {', '.join(map(repr, columns))}."
    has_images = images or IMAGE_COLUMN in file.names
    if not has_images and not any(text in file.names for text in TEXTS):
        raise CatalogError("has neither a column 'designation' nor 'description'", where=file.place, hint=hint)
    missing = [name for name in NEEDED_FOR_IMAGES if name not in file.names] if images else []
    if missing:
        wanted = [" or ".join(repr(own) for own, ours in raw.COLUMNS.items() if ours == name) for name in missing]
        raise CatalogError(f"has no column {', '.join(wanted)}", where=file.place, hint=hint)


def _csv_frame(rows: list[list[str]], layout: CsvLayout, names: Mapping[str, str]) -> pl.DataFrame:
    width = len(layout.columns)
    errors = [f"the row has {len(row)} cells, the header {width}" if len(row) > width else None for row in rows]
    notes = [
        f"the row has {len(row)} cells, the header {width}: the others were taken for empty"
        if len(row) < width
        else None
        for row in rows
    ]
    columns: dict[str, pl.Series] = {}
    for ours, own in names.items():
        at = layout.columns.index(own)
        longest = KEPT if ours in TEXTS else None
        cells = [row[at][:longest] or None if at < len(row) else None for row in rows]
        columns[ours] = pl.Series(cells, dtype=pl.String)
    texts = {CELLS_ERROR: errors, CELLS_NOTE: notes}
    return pl.DataFrame({**columns, **{name: pl.Series(text, dtype=pl.String) for name, text in texts.items()}})


def _parquet_frame(table: pl.DataFrame) -> pl.DataFrame:
    columns = [_bytes(table) if name == IMAGE_COLUMN else _text(table, name) for name in table.columns]
    nothing = pl.lit(None, pl.String)
    return table.select(*columns, nothing.alias(CELLS_ERROR), nothing.alias(CELLS_NOTE))


def _text(table: pl.DataFrame, name: str) -> pl.Expr:
    """Numbers of products that once had a gap among them are 7.0 in many a file, and mean 7."""
    column = pl.col(name)
    if name not in KEY_COLUMNS or not table.schema[name].is_float():
        return column.cast(pl.String)
    whole = column.cast(pl.Int64, strict=False)
    return pl.when(column == whole).then(whole.cast(pl.String)).otherwise(column.cast(pl.String)).alias(name)


def _bytes(table: pl.DataFrame) -> pl.Expr:
    column = pl.col(IMAGE_COLUMN)
    return (
        column.struct.field("bytes").alias(IMAGE_COLUMN)
        if isinstance(table.schema[IMAGE_COLUMN], pl.Struct)
        else column
    )

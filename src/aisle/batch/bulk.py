"""Bulk prediction from a table to a result, on whichever engine: cut, predict what is not there yet, put together."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from aisle.batch.images import open_images_at
from aisle.batch.local import Engine, on_this_machine
from aisle.batch.parts import BulkResult, open_parts
from aisle.batch.pieces import Piece, Source, open_source
from aisle.batch.places import Place
from aisle.batch.predicting import OUTPUT_SCHEMA, Task
from aisle.batch.table import FIELDS
from aisle.errors import AisleError, UsageError
from aisle.logs import get_logger
from aisle.model.bundle import Bundle
from aisle.progress import Progress

ROWS_WITH_IMAGES = 64  # a second's work: at the end no core waits long for another
ROWS_OF_TEXT = 2048


@dataclass(frozen=True, slots=True)
class BulkOptions:
    """`rows` a piece; 0: as many as suit. `resume`: what an interrupted run left is used. A table of more than
    `max_rows` is refused; 0: none is."""

    images: Place | None = None
    fields: tuple[str, ...] = FIELDS
    rows: int = 0
    partitioned: bool = False
    resume: bool = False
    max_rows: int = 0


def predict_table(
    bundle: Bundle, table: Place, output: Place, engine: Engine, options: BulkOptions = BulkOptions()
) -> BulkResult:
    """Predict every row of `table`, and write `output` whole or not at all; rows keep their order.

    A row that cannot be predicted has its `error`; one whose image cannot be used is predicted from its texts and has
    an `error` too. Raises CatalogError for the table, UsageError for the output, InputError for the images.
    """
    task = make_task(bundle, table, options)
    if any(file.place == output for file in task.source.files) or _is_same(table, output):
        raise UsageError("the output would replace the input", where=output, hint="Name another --output.")
    with open_parts(output, task.fingerprint(), resume=options.resume, partitioned=options.partitioned) as opened:
        parts, there = opened
        todo = [piece for piece in task.source.pieces if piece.number not in there]
        done = sum(piece.rows for piece in task.source.pieces if piece.number in there)
        if done:
            get_logger(__name__).info("going on where a run stopped", rows=done)
        with Progress("predicting", total=task.source.rows, done=done, unit="products") as progress:
            try:
                with _ended(engine(task, todo, parts)) as pieces:
                    for piece in pieces:
                        progress.add(piece.rows)
            except BaseException:
                with contextlib.suppress(AisleError, OSError):  # what is told is what went wrong first
                    if parts.there():
                        get_logger(__name__).warning("stopped: the same command with --resume goes on from here")
                raise
        result = parts.finish(len(task.source.pieces), empty_result(task.source))
    get_logger(__name__).info("predicted", model_version=bundle.version, **result.as_dict())
    return result


def make_task(bundle: Bundle, table: Place, options: BulkOptions) -> Task:
    """Raises CatalogError for a table that cannot be used, InputError for images that are not there."""
    if options.images is not None:
        open_images_at(options.images)  # before anything is written
    look = partial(open_source, table, images=options.images is not None, most=options.max_rows)
    source = look(rows=options.rows or ROWS_OF_TEXT)
    if not options.rows and (options.images is not None or source.has_images):
        source = look(rows=ROWS_WITH_IMAGES)
    return Task(source, bundle.path.resolve(), bundle.version, options.images, options.fields)


def local_engine(cores: int) -> Engine:
    return partial(on_this_machine, cores=cores)


def empty_result(source: Source) -> pl.DataFrame:
    """The columns of a result, without rows."""
    return pl.DataFrame(schema={**dict.fromkeys(source.keys.values(), pl.String), **OUTPUT_SCHEMA})


def predict_file(bundle: Bundle, source: Path, output: Path, *, images: Path | None = None, cores: int) -> BulkResult:
    """`predict_table` of files on this machine."""
    found = Place(str(images)) if images is not None else None
    options = BulkOptions(images=found)
    return predict_table(bundle, Place(str(source)), Place(str(output)), local_engine(cores), options)


@contextlib.contextmanager
def _ended(pieces: Iterator[Piece]) -> Iterator[Iterator[Piece]]:
    """An engine that is a generator stops what it started when nobody asks it any more."""
    try:
        yield pieces
    finally:
        if isinstance(pieces, Generator):
            pieces.close()


def _is_same(table: Place, output: Place) -> bool:
    if table.is_s3 or output.is_s3:
        return table.address == output.address
    return table.path.exists() and output.path.exists() and table.path.samefile(output.path)

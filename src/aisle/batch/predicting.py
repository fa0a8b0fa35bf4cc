"""What every engine does with a piece of a table: read it, predict its products, write the part of the result.

A `Task` is plain data, which is sent to where the work is done; `TaskPredictor` is what does it there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from aisle.batch.glances import glances_of
from aisle.batch.images import open_images_at
from aisle.batch.parts import Parts
from aisle.batch.pieces import CELLS_ERROR, CELLS_NOTE, Piece, PieceReader, Source
from aisle.batch.places import Place
from aisle.batch.table import FIELDS, ProductRow, product_rows
from aisle.catalog import Prediction
from aisle.data import raw
from aisle.data.images import ImageZip, map_bounded
from aisle.errors import BundleError, InputError
from aisle.model.bundle import Bundle
from aisle.model.predictor import Outcome, Predictor

BATCH = 64
BATCHES_AT_ONCE = 2  # while one waits for its images, the other's texts are looked at
OUTPUT_SCHEMA = {
    "predicted": pl.String,
    "label": pl.String,
    "confidence": pl.Float64,
    "decision": pl.String,
    "top_k": pl.String,
    "model_version": pl.String,
    "error": pl.String,
}


@dataclass(frozen=True, slots=True)
class Task:
    """`bundle` is a folder that holds `version`; `images` is where they are, None: in the table, or nowhere."""

    source: Source
    bundle: Path
    version: str
    images: Place | None = None
    fields: tuple[str, ...] = FIELDS

    def fingerprint(self) -> dict[str, Any]:
        """Plain JSON that differs where the result may."""
        return {
            "source": self.source.fingerprint(),
            "model": self.version,
            "images": None if self.images is None else [str(self.images), self.images.stamp()],
            "fields": list(self.fields),
        }


class TaskPredictor:
    """Predicts pieces of a task with so many `threads`. Raises BundleError, and InputError for images that are not
    there. Not for several threads at once.

    `predictor`: one of the same bundle that is there already, and is not closed at the end.
    """

    def __init__(self, task: Task, *, threads: int, predictor: Predictor | None = None) -> None:
        self._task = task
        bundle = Bundle.load(task.bundle) if predictor is None else predictor.bundle
        if bundle.version != task.version:
            raise BundleError(f"holds {bundle.version} by now, not {task.version}", where=task.bundle)
        self._images = open_images_at(task.images) if task.images is not None else None
        self._reader = PieceReader(task.source)
        self._owns_predictor = predictor is None
        self._predictor = predictor or Predictor(bundle, threads=threads)
        self._at_once = BATCHES_AT_ONCE if threads > 1 else 1

    def write(self, piece: Piece, parts: Parts) -> Piece:
        """Predict a piece and write its part."""
        parts.write(piece.number, self.predict(piece))
        return piece

    def predict(self, piece: Piece) -> pl.DataFrame:
        """One row for each row of the piece: its keys by their own names, and `OUTPUT_SCHEMA`."""
        return self.predicted(self.read(piece))

    def read(self, piece: Piece) -> pl.DataFrame:
        """The rows of a piece, by our names."""
        return self._reader.read(piece)

    def predicted(self, table: pl.DataFrame) -> pl.DataFrame:
        """What `predict` gives, of rows that were read."""
        return self.result(table, self._outcomes(product_rows(table, self._images, fields=self._task.fields)))

    def result(self, table: pl.DataFrame, outcomes: Iterable[tuple[ProductRow, Outcome]]) -> pl.DataFrame:
        """What is said of the rows of a piece's `table`."""
        return self._frame(table, [_output_row(*one, self._predictor.version) for one in outcomes])

    def unpredicted(self, table: pl.DataFrame, error: str) -> pl.DataFrame:
        """What `predicted` would give if each row had this error."""
        return self._frame(table, [(*[None] * 5, self._predictor.version, error)] * len(table))

    def glances(self, table: pl.DataFrame, part: pl.DataFrame, first: int) -> pl.DataFrame:
        """What a person sees of a `part` of the result, of the rows of `table`, from row `first` on."""
        places: list[tuple[int, int] | None] = [None] * len(table)
        if isinstance(self._images, ImageZip):
            places = [self._images.where(stem) if stem else None for stem in raw.image_stems(table)]
        key = next(iter(self._task.source.keys), "")
        return glances_of(part, first=first, table=table, keys=_column(table, key), images=places)

    def _frame(self, table: pl.DataFrame, outcomes: list[tuple[object, ...]]) -> pl.DataFrame:
        result = pl.DataFrame(outcomes, schema=OUTPUT_SCHEMA, orient="row")
        keys = {own: _column(table, ours) for ours, own in self._task.source.keys.items()}
        return pl.DataFrame({**keys, **_with_cells_errors(result, table).to_dict()})

    def close(self) -> None:
        self._reader.close()
        if self._owns_predictor:
            self._predictor.close()

    def __enter__(self) -> TaskPredictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _outcomes(self, rows: Iterator[ProductRow]) -> Iterator[tuple[ProductRow, Outcome]]:
        def predict(batch: Sequence[ProductRow]) -> list[tuple[ProductRow, Outcome]]:
            return list(zip(batch, self._predictor.predict([row.product for row in batch]), strict=True))

        batches = batched_rows(rows)
        done = map(predict, batches) if self._at_once == 1 else map_bounded(predict, batches, threads=self._at_once)
        for batch in done:
            yield from batch


def batched_rows(rows: Iterator[ProductRow], size: int = BATCH) -> Iterator[list[ProductRow]]:
    while batch := list(islice(rows, size)):
        yield batch


def _column(table: pl.DataFrame, name: str) -> pl.Series:
    return table[name] if name in table.columns else pl.Series(name, [None] * len(table), pl.String)


def _with_cells_errors(result: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
    """A row whose cells do not belong to its columns is not believed, whatever was predicted from them."""
    wrong, note = table[CELLS_ERROR], table[CELLS_NOTE]
    if wrong.null_count() == note.null_count() == len(table):
        return result
    kept = [
        pl.when(wrong.is_null()).then(pl.col(name)).alias(name)
        for name in OUTPUT_SCHEMA
        if name not in ("model_version", "error")
    ]
    return result.with_columns(*kept, error=pl.coalesce(wrong, pl.col("error"), note))


def _output_row(row: ProductRow, outcome: Outcome, version: str) -> tuple[object, ...]:
    if isinstance(outcome, InputError):
        return (None, None, None, None, None, version, str(row.image_error or outcome))
    error = row.image_error or outcome.image_error
    return (
        outcome.type.code,
        outcome.type.label,
        outcome.confidence,
        outcome.decision.value,
        top_k_json(outcome),
        version,
        f"predicted without the image: {error}" if error else None,
    )


def top_k_json(prediction: Prediction) -> str:
    candidates = [
        {"prediction": one.type.code, "label": one.type.label, "confidence": one.confidence}
        for one in prediction.candidates
    ]
    return json.dumps(candidates, ensure_ascii=False)

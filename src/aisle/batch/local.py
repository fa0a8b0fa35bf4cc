"""Bulk prediction on one machine: a table of products in, a table of predictions out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from aisle.batch.table import FIELDS, ProductRow, product_rows, read_product_table
from aisle.catalog import Prediction
from aisle.data import raw
from aisle.data.images import Images, map_bounded
from aisle.errors import InputError, UsageError
from aisle.files import atomic_path
from aisle.logs import get_logger
from aisle.model.predictor import Outcome, Predictor
from aisle.progress import Progress

BATCH = 64
BATCHES_AT_ONCE = 2  # while one waits for its images, the other's texts are looked at
KEY_COLUMNS = ("key", "product_id", "image_id")
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
class BulkResult:
    output: Path
    rows: int
    predicted: int
    accepted: int
    errors: int

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "output": str(self.output)}


def predict_file(
    predictor: Predictor,
    source: Path,
    output: Path,
    *,
    images: Images | None = None,
    fields: tuple[str, ...] = FIELDS,
) -> BulkResult:
    """Predict every row of `source` (CSV or parquet) and write `output` (CSV or parquet), whole or not at all.

    Rows keep their order. A row that cannot be predicted has its `error`; one whose image cannot be used is
    predicted from its texts and has an `error` too.
    """
    if output.suffix not in (".csv", ".parquet"):
        raise UsageError(f"the output is .csv or .parquet, not {output.suffix or 'without an ending'}", where=output)
    if output.exists() and source.exists() and output.samefile(source):
        raise UsageError("the output would replace the input", where=output, hint="Name another --output.")
    table = read_product_table(source, images=images)
    outcomes = predict_table(predictor, table, images=images, fields=fields)
    result = pl.DataFrame(list(outcomes), schema=OUTPUT_SCHEMA, orient="row")
    names = raw.own_names(source)
    keys = table.select(pl.col(name).alias(names[name]) for name in KEY_COLUMNS if name in names)
    with atomic_path(output) as temporary:
        raw.write_table(pl.DataFrame({column.name: column for column in (*keys, *result)}), temporary)
    summary = BulkResult(
        output=output,
        rows=len(result),
        predicted=len(result) - result["predicted"].null_count(),
        accepted=int((result["decision"] == "accept").sum()),
        errors=len(result) - result["error"].null_count(),
    )
    get_logger(__name__).info("predicted", model_version=predictor.version, **summary.as_dict())
    return summary


def predict_table(
    predictor: Predictor, table: pl.DataFrame, *, images: Images | None, fields: tuple[str, ...] = FIELDS
) -> Iterator[tuple[object, ...]]:
    """One row of `OUTPUT_SCHEMA` for each row of `table`, in order."""

    def predict(rows: Sequence[ProductRow]) -> tuple[Sequence[ProductRow], list[Outcome]]:
        return rows, predictor.predict([row.product for row in rows])

    batches = batched_rows(product_rows(table, images, fields=fields))
    with Progress("predicting", total=len(table), unit="products") as progress:
        for rows, outcomes in map_bounded(predict, batches, threads=BATCHES_AT_ONCE):
            for row, outcome in zip(rows, outcomes, strict=True):
                yield _output_row(row, outcome, predictor.version)
            progress.add(len(rows))


def batched_rows(rows: Iterator[ProductRow], size: int = BATCH) -> Iterator[list[ProductRow]]:
    while batch := list(islice(rows, size)):
        yield batch


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

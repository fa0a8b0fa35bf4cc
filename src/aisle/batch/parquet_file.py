"""A parquet file, read from any row on without what is before it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aisle.errors import CatalogError
from aisle.inputs.text import MAX_CHARACTERS

BATCH_ROWS = 256
KEPT = 4 * MAX_CHARACTERS  # of a text; cleaning looks at no more


class ParquetTable:
    """Columns of a file under other `names` (name → its own), the texts of `cut_cells` not longer than is looked at.

    Keeps the place where it stopped, as rows are mostly asked for in order.
    Raises CatalogError for what is no parquet file.
    """

    def __init__(
        self,
        stream: BinaryIO,
        where: object,
        names: Mapping[str, str] = MappingProxyType({}),
        *,
        cut_cells: Collection[str] = (),
    ) -> None:
        self._where = where
        try:
            # A text that many rows share stays one until it is cut.
            shared = [own for name, own in names.items() if name in cut_cells]
            self._file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20, read_dictionary=shared)
        except (pa.ArrowException, OSError) as error:
            raise self._broken(error) from None
        self.schema = self._file.schema_arrow
        self._names = {own: name for name, own in names.items()}
        sizes = [self._file.metadata.row_group(one).num_rows for one in range(self._file.num_row_groups)]
        self._bounds = list(pairwise(accumulate(sizes, initial=0)))
        self._group, self._row = -1, 0
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.Table | None = None

    @property
    def rows(self) -> int:
        return int(self._file.metadata.num_rows)

    def cut(self, rows: int) -> Iterator[tuple[int, int]]:
        """For each piece of at most so many rows: the first of them, and the one behind the last.

        No piece lies in two row groups.
        """
        for first, end in self._bounds:
            for start in range(first, end, rows):
                yield start, min(start + rows, end)

    def read(self, start: int, stop: int) -> pl.DataFrame:
        """The rows from `start` to before `stop`, which a `cut` has given."""
        group = next(number for number, (first, end) in enumerate(self._bounds) if first <= start < end)
        if group != self._group or start < self._row:
            self._group, self._row, self._rest = group, self._bounds[group][0], None
            self._batches = self._file.iter_batches(BATCH_ROWS, row_groups=[group], columns=list(self._names))
        found: list[pa.Table] = []
        try:
            while self._row < stop:
                table = self._rest if self._rest is not None else _text_as_such(next(self._batches))
                skip, take = max(start - self._row, 0), min(stop - self._row, len(table))
                self._rest = table.slice(take) if take < len(table) else None
                self._row += take
                if skip < take:
                    found.append(table.slice(skip, take - skip))
        except (pa.ArrowException, OSError, StopIteration) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise self._broken(error) from None
        table = pa.concat_tables(found)
        return pl.DataFrame(table.rename_columns([self._names[own] for own in table.schema.names]))

    def _broken(self, error: Exception) -> Exception:
        if isinstance(error, OSError) and error.errno:
            return error
        reason = [*str(error).splitlines(), ""][0]
        return CatalogError(
            f"cannot be read as a table: {reason}", where=self._where, hint="Write it again as parquet."
        )


def _text_as_such(batch: pa.RecordBatch) -> pa.Table:
    """The batch, its shared texts cut to what is looked at and then given to each row.

    Raises ArrowInvalid for bytes that are no UTF-8.
    """
    batch.validate(full=True)
    columns = [
        pc.take(pc.utf8_slice_codeunits(column.dictionary, 0, KEPT), column.indices)
        if pa.types.is_dictionary(column.type) and _is_text(column.type.value_type)
        else column
        for column in batch.columns
    ]
    return pa.table(columns, names=batch.schema.names)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))

"""The rows of the database as JSON, and back: the same on SQLite and on PostgreSQL.

Sign-ins and batches are no part of it. Who had signed out since would be signed in again, and the files of a batch
lie elsewhere and are deleted after days.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Column, Connection, Integer, LargeBinary, Table, exists, func, insert, inspect, select, text

from aisle.errors import InputError
from aisle.store.engine import is_sqlite
from aisle.store.schema import UtcTime, batch_pieces, batches, console_sessions, metadata, refresh_tokens

TABLES: Mapping[str, Table] = {
    table.name: table
    for table in metadata.sorted_tables  # what is referred to, before what refers to it
    if table not in (refresh_tokens, console_sessions, batches, batch_pieces)
}
_AT_ONCE = 500


def rows(connection: Connection, table: Table) -> Iterator[dict[str, Any]]:
    """Every row of a table, ready for JSON: times in ISO 8601, bytes in base64."""
    found = connection.execute(select(table).execution_options(yield_per=_AT_ONCE))
    for row in found.mappings():
        yield {column.name: _to_json(row[column.name]) for column in table.c}


def insert_rows(connection: Connection, table: Table, found: Iterable[Mapping[str, Any]]) -> int:
    """Insert what `rows` gave, into a table that may have more columns by now; how many those were.

    Raises InputError for a row that is none of this table.
    """
    count, left = 0, iter(found)
    while some := list(islice(left, _AT_ONCE)):
        try:
            values = [{name: _from_json(table.c[name], value) for name, value in row.items()} for row in some]
        except (KeyError, ValueError, TypeError, AttributeError, binascii.Error):
            raise InputError(f"holds a row that is none of the table {table.name}") from None
        connection.execute(insert(table), values)
        count += len(values)
    _go_on_counting(connection, table)
    return count


def tables_in_use(connection: Connection) -> list[str]:
    """The names of our tables that have a row."""
    there = set(inspect(connection).get_table_names())
    return [
        table.name
        for table in metadata.sorted_tables
        if table.name in there and connection.execute(select(exists(select(table)))).scalar_one()
    ]


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(value).decode()
    return value


def _from_json(column: Column[Any], value: Any) -> Any:
    if value is None:
        return None
    if isinstance(column.type, UtcTime):
        return datetime.fromisoformat(value)
    if isinstance(column.type, LargeBinary):
        return base64.b64decode(value, validate=True)
    return value


def _go_on_counting(connection: Connection, table: Table) -> None:
    """Have PostgreSQL number the next row after those that came with a number; SQLite does by itself."""
    key = table.primary_key.columns.values()[0]
    if is_sqlite(connection) or not isinstance(key.type, Integer) or key.foreign_keys or len(table.primary_key) > 1:
        return
    last = connection.execute(select(func.max(key))).scalar()
    if last is not None:
        counter = text("SELECT setval(pg_get_serial_sequence(:table, :column), :last)")
        connection.execute(counter, {"table": table.name, "column": key.name, "last": last})

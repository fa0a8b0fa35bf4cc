"""What the database keeps of one person or one product: to be shown, and to be erased.

Each `Holding` is rows of one table and their fate. Rows that go are deleted. Rows that law or purpose make stay keep
what happened, with a pseudonym where the name was: nobody else has it, and nothing leads from it back to the name.

The audit trail's triggers refuse every change. An erasure takes them away, replaces the name and puts them back, in
the transaction that everything else of it is in, and is itself an entry.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    FromClause,
    LargeBinary,
    Table,
    Text,
    and_,
    cast,
    delete,
    func,
    or_,
    select,
    text,
    update,
)

from aisle.store.engine import is_sqlite
from aisle.store.schema import (
    api_keys,
    audit,
    batch_pieces,
    batches,
    console_sessions,
    experiments,
    feedback,
    metadata,
    predictions,
    refresh_tokens,
    retraining_requests,
    retrainings,
    reviews,
    users,
)

SECRETS = frozenset({"password_hash", "key_hash", "token_hash", "id_hash", "sealed"})
"""Never shown, not even to whom they belong: they let in whoever has them, or nearly."""
_NAMES = frozenset({"undone_by", "asked_by", "started_by", "user", "user_name", "reviewer", "who", "by"})
"""Under these keys of a JSON value stands a name."""
_BY_NAME = frozenset({"reviewers"})
"""Under these stands an object whose keys are names."""
_HELD = "reviews_held"
"""What somebody looks at just now, whoever sent it."""
_SENTENCES = frozenset({"reason", "note", "forced", "why", "approved"})
"""Under these, and in the columns of these names, people write what they like."""


class Fate(StrEnum):
    ERASED = "erased"
    RENAMED = "under a pseudonym"


@dataclass(frozen=True)
class Holding:
    """Rows of `table` that may be about somebody or something. Where they stay, `columns` can hold the name."""

    name: str
    table: Table
    about: ColumnElement[bool]
    fate: Fate = Fate.ERASED
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Erased:
    """How many rows went and how many have a pseudonym now, by holding; `mentions` are sentences left as they are."""

    erased: Mapping[str, int]
    renamed: Mapping[str, int]
    mentions: tuple[str, ...]


def of_user(name: str) -> list[Holding]:
    """In the order in which they can be deleted."""
    theirs = predictions.c.user_name == name
    said = and_(feedback.c.user_name == name, feedback.c.prediction_id.not_in(select(predictions.c.id).where(theirs)))
    their_batches = select(batches.c.id).where(batches.c.user_name == name)
    return [
        *_of_predictions(theirs),
        _renamed_rows("feedback_given", feedback, ("user_name",), said),
        Holding("batch_pieces", batch_pieces, batch_pieces.c.batch_id.in_(their_batches)),
        Holding("batches", batches, batches.c.user_name == name),
        Holding("console_sessions", console_sessions, console_sessions.c.user_name == name),
        Holding("refresh_tokens", refresh_tokens, refresh_tokens.c.user_name == name),
        Holding("api_keys", api_keys, api_keys.c.user_name == name),
        Holding("users", users, users.c.name == name),
        *(
            _renamed_rows(_HELD if table is reviews else table.name, table, columns, _mentions(table, columns, name))
            for table, columns in _OF_THE_SHOP.items()
            if columns
        ),
    ]


_OF_THE_SHOP: Mapping[Table, tuple[str, ...]] = {
    experiments: ("started_by", "reason"),
    retrainings: ("asked_by", "detail"),
    retraining_requests: ("asked_by", "reason"),
    audit: ("who", "subject", "before", "after"),
    reviews: tuple(name for name in ("held_by",) if name in reviews.c),
}
"""What is done to the shop, and by whom."""


def of_product(key: str) -> list[Holding]:
    """What is kept of a product by what the shop calls it."""
    return _of_predictions(predictions.c.product_key == key)


def rows(connection: Connection, holding: Holding, name: str) -> Iterator[dict[str, Any]]:
    """The rows, ready for JSON and without secrets; images are in base64."""
    columns = [column for column in holding.table.c if column.name not in SECRETS]
    found = connection.execute(select(*columns).where(holding.about).execution_options(yield_per=1000))
    for row in found.mappings():
        if holding.fate is Fate.ERASED or _concerns(holding, row, name):
            yield {column.name: _shown(column.type, row[column.name]) for column in columns}


def count(connection: Connection, holdings: list[Holding], name: str) -> Erased:
    """What `erase` would do now."""
    gone, renamed = Counter[str](), Counter[str]()
    mentions: list[str] = []
    for holding in holdings:
        if holding.fate is Fate.ERASED:
            of_it = select(func.count()).select_from(holding.table).where(holding.about)
            gone[holding.name] = connection.execute(of_it).scalar_one()
            continue
        for row in _candidates(connection, holding):
            changed = _changes(holding, row, name, "")
            renamed[holding.name] += bool(changed)
            mentions += _sentences(holding, row, name)
    return Erased(dict(+gone), dict(+renamed), tuple(mentions))


def erase(connection: Connection, holdings: list[Holding], name: str, pseudonym: str) -> Erased:
    """In the caller's transaction: rows go, or `pseudonym` stands where `name` was."""
    found = count(connection, holdings, name)
    for holding in holdings:
        if holding.fate is Fate.RENAMED:
            with _changeable(connection, holding.table):
                for row in _candidates(connection, holding):
                    if changed := _changes(holding, row, name, pseudonym):
                        keys = [column == row[column.name] for column in holding.table.primary_key]
                        connection.execute(update(holding.table).where(*keys).values(changed))
    for holding in holdings:
        if holding.fate is Fate.ERASED:
            connection.execute(delete(holding.table).where(holding.about))
    return found


def new_pseudonym() -> str:
    """Drawn, and kept nowhere else."""
    return f"erased-{secrets.token_hex(6)}"


def batch_ids(connection: Connection, user_name: str) -> list[str]:
    """Of a user's batches, whose files lie in the spool."""
    return list(connection.execute(select(batches.c.id).where(batches.c.user_name == user_name)).scalars())


def _of_predictions(which: ColumnElement[bool]) -> list[Holding]:
    """Predictions, after all that hangs on them: what people said, photos, what a challenger said, the queue."""
    ids = select(predictions.c.id).where(which)
    hanging = [table for table in metadata.sorted_tables if _hangs_on_predictions(table)]
    return [
        *(Holding(table.name, table, table.c.prediction_id.in_(ids)) for table in hanging),
        Holding(predictions.name, predictions, which),
    ]


def _hangs_on_predictions(table: Table) -> bool:
    return any(key.column.table is predictions for key in table.foreign_keys)


def _renamed_rows(name: str, table: Table, columns: tuple[str, ...], about: ColumnElement[bool]) -> Holding:
    return Holding(name, table, about, Fate.RENAMED, columns)


def _mentions(table: FromClause, columns: tuple[str, ...], name: str) -> ColumnElement[bool]:
    """Rows that may have the name: looked at more closely once they are read."""
    encoded = json.dumps(name)[1:-1]
    return or_(
        *(
            cast(table.c[column], Text).contains(encoded, autoescape=True)
            if isinstance(table.c[column].type, JSON) or column in _SENTENCES
            else table.c[column] == name
            for column in columns
        )
    )


def _candidates(connection: Connection, holding: Holding) -> list[Mapping[str, Any]]:
    wanted = [*holding.table.primary_key, *(holding.table.c[name] for name in holding.columns)]
    return [dict(row) for row in connection.execute(select(*wanted).where(holding.about)).mappings()]


def _concerns(holding: Holding, row: Mapping[Any, Any], name: str) -> bool:
    return bool(_changes(holding, row, name, "")) or bool(_sentences(holding, row, name))


def _changes(holding: Holding, row: Mapping[Any, Any], name: str, pseudonym: str) -> dict[str, Any]:
    """The columns that have another value with the pseudonym."""
    changed = {}
    for column in holding.columns:
        value = row[column]
        if isinstance(value, str):
            new: Any = pseudonym if value == name and column not in _SENTENCES else value
        else:
            new = _with_pseudonym(value, name, pseudonym)
        if new != value:
            changed[column] = new
    return changed


def _with_pseudonym(value: Any, name: str, pseudonym: str, key: str = "") -> Any:
    """A JSON value with the pseudonym where a name stands: a role may be called like an account."""
    if isinstance(value, Mapping):
        by_name = key in _BY_NAME
        return {
            (pseudonym if by_name and one == name else one): _with_pseudonym(inner, name, pseudonym, one)
            for one, inner in value.items()
        }
    if isinstance(value, list):
        return [_with_pseudonym(inner, name, pseudonym, key) for inner in value]
    return pseudonym if key in _NAMES and value == name else value


def _sentences(holding: Holding, row: Mapping[Any, Any], name: str) -> list[str]:
    """Where somebody wrote the name into a sentence: which part of a sentence is one, nothing can tell."""
    word = re.compile(rf"(?<![\w.@+-]){re.escape(name)}(?![\w@+-])")
    number = ", ".join(str(row[column.name]) for column in holding.table.primary_key)
    found = (
        where
        for column in holding.columns
        for where, sentence in _texts(row[column], column)
        if word.search(sentence)
    )
    return [f"{holding.table.name} {number}: {where}" for where in found]


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for one, inner in value.items():
            yield from _texts(inner, one)
    elif isinstance(value, str) and key in _SENTENCES:
        yield key, value


def _shown(kind: Any, value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(kind, LargeBinary) and value is not None:
        return base64.b64encode(value).decode()
    return value


@contextlib.contextmanager
def _changeable(connection: Connection, table: Table) -> Iterator[None]:
    """The audit trail without its triggers, until the end of this context or of the transaction."""
    if table is not audit:
        yield
        return
    if not is_sqlite(connection):
        connection.execute(text("ALTER TABLE audit DISABLE TRIGGER audit_no_change"))
        yield
        connection.execute(text("ALTER TABLE audit ENABLE TRIGGER audit_no_change"))
        return
    there = text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit'")
    triggers = connection.execute(there).all()
    for one in triggers:
        connection.exec_driver_sql(f'DROP TRIGGER "{one.name}"')
    yield
    for one in triggers:
        connection.exec_driver_sql(one.sql)

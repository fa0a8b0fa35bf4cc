"""The audit trail: who did what, when, and how it was before and after. Entries are added, never changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, insert, select

from aisle.store.schema import audit


@dataclass(frozen=True)
class Entry:
    id: int
    at: datetime
    who: str
    what: str
    subject: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


def record(
    connection: Connection,
    *,
    who: str,
    what: str,
    subject: str,
    at: datetime,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Add one entry. `before` and `after` are JSON and never hold a secret, hashed or not."""
    values = {"at": at, "who": who, "what": what, "subject": subject, "before": before, "after": after}
    connection.execute(insert(audit).values(values))


def entries(connection: Connection, *, since: datetime | None = None) -> list[Entry]:
    """Every entry, the oldest first; with `since`, those from that moment on."""
    query = select(audit).order_by(audit.c.id)
    if since is not None:
        query = query.where(audit.c.at >= since)
    return [Entry(**row._mapping) for row in connection.execute(query)]


@dataclass(frozen=True)
class Filter:
    """What is looked for: who did it, what was done, exactly or out of several, to what, and when."""

    who: str = ""
    what: str = ""
    any_of: tuple[str, ...] = ()
    subject: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        if self.who:
            yield audit.c.who == self.who
        if self.what:
            yield audit.c.what == self.what
        if self.any_of:
            yield audit.c.what.in_(self.any_of)
        if self.subject:
            yield audit.c.subject == self.subject
        if self.since is not None:
            yield audit.c.at >= self.since
        if self.until is not None:
            yield audit.c.at < self.until


def newest(
    connection: Connection, wanted: Filter = Filter(), *, before: int | None = None, count: int | None = None
) -> Iterator[Entry]:
    """What is wanted, the newest first; `before` an id, so that each page costs the same."""
    query = select(audit).where(*wanted.conditions()).order_by(audit.c.id.desc())
    if before is not None:
        query = query.where(audit.c.id < before)
    if count is not None:
        query = query.limit(count)
    for row in connection.execute(query.execution_options(yield_per=1000)):
        yield Entry(**row._mapping)


def newer_page(connection: Connection, wanted: Filter, *, before: int, count: int) -> int | None:
    """`before` of the page of `count` that comes ahead of the one `before` this id; None: it is the first."""
    query = select(audit.c.id).where(*wanted.conditions(), audit.c.id >= before).order_by(audit.c.id)
    return connection.execute(query.offset(count).limit(1)).scalar()


def kinds(connection: Connection) -> list[str]:
    """What was ever done, by the alphabet."""
    return list(connection.execute(select(audit.c.what).distinct().order_by(audit.c.what)).scalars())

"""The audit trail: who did what, when, and how it was before and after. Entries are added, never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from aisle.store.schema import audit


@dataclass(frozen=True)
class Entry:
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
    columns = (audit.c.at, audit.c.who, audit.c.what, audit.c.subject, audit.c.before, audit.c.after)
    query = select(*columns).order_by(audit.c.id)
    if since is not None:
        query = query.where(audit.c.at >= since)
    return [Entry(*row) for row in connection.execute(query)]

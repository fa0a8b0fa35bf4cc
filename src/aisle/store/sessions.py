"""The console's sessions: who signed in at a browser. What is sealed in them, only the browser's cookie opens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from aisle.store.schema import console_sessions as sessions


@dataclass(frozen=True)
class StoredSession:
    """`sealed` are the tokens; from `renew_at` on they should be renewed, after `expires_at` it is over."""

    id_hash: str
    user_name: str
    sealed: str
    created_at: datetime
    renew_at: datetime
    expires_at: datetime


def add(connection: Connection, session: StoredSession) -> None:
    connection.execute(insert(sessions).values(**vars(session)))


def find(connection: Connection, id_hash: str) -> StoredSession | None:
    row = connection.execute(select(sessions).where(sessions.c.id_hash == id_hash)).one_or_none()
    return None if row is None else StoredSession(**row._mapping)


def claim_renewal(connection: Connection, id_hash: str, *, due: datetime, until: datetime) -> bool:
    """Whether the caller is to renew it: of all who find it due one is, and the others not before `until`."""
    is_due = (sessions.c.id_hash == id_hash, sessions.c.renew_at <= due)
    return connection.execute(update(sessions).where(*is_due).values(renew_at=until)).rowcount == 1


def renew(connection: Connection, id_hash: str, *, sealed: str, renew_at: datetime, expires_at: datetime) -> None:
    values = {"sealed": sealed, "renew_at": renew_at, "expires_at": expires_at}
    connection.execute(update(sessions).where(sessions.c.id_hash == id_hash).values(values))


def remove(connection: Connection, id_hash: str) -> None:
    connection.execute(delete(sessions).where(sessions.c.id_hash == id_hash))


def delete_expired(connection: Connection, *, before: datetime) -> int:
    """Forget sessions that expired before a moment; how many those were."""
    return connection.execute(delete(sessions).where(sessions.c.expires_at < before)).rowcount

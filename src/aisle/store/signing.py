"""Signing keys as they are stored. What their times mean is in `auth/keys.py`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from aisle.store.schema import signing_keys


@dataclass(frozen=True)
class StoredKey:
    """`public_jwk` is the JSON Web Key that is published; `private_pem` may be encrypted with a passphrase."""

    kid: str
    algorithm: str
    public_jwk: dict[str, Any]
    private_pem: str
    published_at: datetime
    signs_from: datetime
    signs_until: datetime | None = None
    verifies_until: datetime | None = None


def add(connection: Connection, key: StoredKey) -> None:
    connection.execute(insert(signing_keys).values(**vars(key)))


def all_keys(connection: Connection) -> list[StoredKey]:
    """Every key, the one that signs first in time first."""
    query = select(signing_keys).order_by(signing_keys.c.signs_from, signing_keys.c.kid)
    return [StoredKey(**row._mapping) for row in connection.execute(query)]


def end(connection: Connection, kid: str, *, signs_until: datetime, verifies_until: datetime) -> None:
    """Say when a key stops signing and when what it signed has expired."""
    times = {"signs_until": signs_until, "verifies_until": verifies_until}
    connection.execute(update(signing_keys).where(signing_keys.c.kid == kid).values(times))


def forget(connection: Connection, *, before: datetime) -> int:
    """Delete keys that verify nothing since before a moment; how many those were."""
    return connection.execute(delete(signing_keys).where(signing_keys.c.verifies_until < before)).rowcount

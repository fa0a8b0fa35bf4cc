"""API keys of service accounts: a prefix that is shown, and the hash of the whole key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from aisle.store.schema import api_keys


@dataclass(frozen=True)
class ApiKey:
    prefix: str
    key_hash: str
    user_name: str
    created_at: datetime
    revoked_at: datetime | None = None


def add(connection: Connection, key: ApiKey) -> None:
    connection.execute(insert(api_keys).values(**vars(key)))


def find(connection: Connection, prefix: str) -> ApiKey | None:
    row = connection.execute(select(api_keys).where(api_keys.c.prefix == prefix)).one_or_none()
    return None if row is None else ApiKey(**row._mapping)


def of_user(connection: Connection, user_name: str) -> list[ApiKey]:
    query = select(api_keys).where(api_keys.c.user_name == user_name).order_by(api_keys.c.created_at)
    return [ApiKey(**row._mapping) for row in connection.execute(query)]


def revoke(connection: Connection, prefix: str, *, at: datetime) -> None:
    connection.execute(
        update(api_keys).where(api_keys.c.prefix == prefix, api_keys.c.revoked_at.is_(None)).values(revoked_at=at)
    )

"""Refresh tokens, as hashes. A family is all the tokens that descend from one sign-in; it is revoked as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from aisle.store.schema import refresh_tokens


@dataclass(frozen=True)
class RefreshToken:
    token_hash: str
    family: str
    user_name: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    revoked_at: datetime | None = None


def add(connection: Connection, token: RefreshToken) -> None:
    connection.execute(insert(refresh_tokens).values(**vars(token)))


def find(connection: Connection, token_hash: str) -> RefreshToken | None:
    row = connection.execute(select(refresh_tokens).where(refresh_tokens.c.token_hash == token_hash)).one_or_none()
    return None if row is None else RefreshToken(**row._mapping)


def use(connection: Connection, token_hash: str, *, at: datetime) -> bool:
    """Mark a token as used. False when it was used or revoked before: of two racing callers one gets True."""
    unused = (
        refresh_tokens.c.token_hash == token_hash,
        refresh_tokens.c.used_at.is_(None),
        refresh_tokens.c.revoked_at.is_(None),
    )
    return connection.execute(update(refresh_tokens).where(*unused).values(used_at=at)).rowcount == 1


def revoke_family(connection: Connection, family: str, *, at: datetime) -> int:
    """Revoke what is not revoked yet; how many tokens that were."""
    return _revoke(connection, refresh_tokens.c.family == family, at)


def revoke_user(connection: Connection, user_name: str, *, at: datetime) -> int:
    """Revoke every token of an account; how many tokens that were."""
    return _revoke(connection, refresh_tokens.c.user_name == user_name, at)


def delete_expired(connection: Connection, *, before: datetime) -> int:
    """Forget tokens that expired before a moment; how many those were."""
    return connection.execute(delete(refresh_tokens).where(refresh_tokens.c.expires_at < before)).rowcount


def _revoke(connection: Connection, which: ColumnElement[bool], at: datetime) -> int:
    still_good = (which, refresh_tokens.c.revoked_at.is_(None))
    return connection.execute(update(refresh_tokens).where(*still_good).values(revoked_at=at)).rowcount

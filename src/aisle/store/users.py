"""Accounts: people, who have a password, and services, which have API keys. An account is disabled, not deleted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from aisle.errors import UsageError
from aisle.store.schema import users


class Role(StrEnum):
    ADMIN = "admin"
    REVIEWER = "reviewer"
    CLIENT = "client"


class Kind(StrEnum):
    PERSON = "person"
    SERVICE = "service"


@dataclass(frozen=True)
class User:
    name: str
    kind: Kind
    role: Role
    password_hash: str | None
    created_at: datetime
    disabled_at: datetime | None

    @property
    def is_active(self) -> bool:
        return self.disabled_at is None


def add(connection: Connection, user: User) -> None:
    """Raises UsageError when the name is taken, also by a disabled account."""
    try:
        with connection.begin_nested():
            connection.execute(insert(users).values(**vars(user)))
    except IntegrityError:
        raise UsageError(f"there is an account {user.name!r} already") from None


def find(connection: Connection, name: str) -> User | None:
    row = connection.execute(select(users).where(users.c.name == name)).one_or_none()
    return None if row is None else _user(row)


def get(connection: Connection, name: str) -> User:
    """Raises UsageError for a name that nobody has."""
    user = find(connection, name)
    if user is None:
        raise UsageError(f"there is no account {name!r}")
    return user


def all_users(connection: Connection) -> list[User]:
    return [_user(row) for row in connection.execute(select(users).order_by(users.c.name))]


def set_role(connection: Connection, name: str, role: Role) -> None:
    connection.execute(update(users).where(users.c.name == name).values(role=role))


def set_password_hash(connection: Connection, name: str, password_hash: str) -> None:
    connection.execute(update(users).where(users.c.name == name).values(password_hash=password_hash))


def disable(connection: Connection, name: str, *, at: datetime) -> None:
    connection.execute(update(users).where(users.c.name == name).values(disabled_at=at))


def count_admins(connection: Connection) -> int:
    """How many accounts can administrate now."""
    query = select(func.count()).where(users.c.role == Role.ADMIN, users.c.disabled_at.is_(None))
    return connection.execute(query).scalar_one()


def _user(row: Row[Any]) -> User:
    return User(row.name, Kind(row.kind), Role(row.role), row.password_hash, row.created_at, row.disabled_at)

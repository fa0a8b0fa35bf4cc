"""Letting in: a person by name and password, a service by its API key.

There is one refusal, NotLetIn, and one way through the code for everybody: whether the name is unknown, disabled or
the password wrong can be told neither by the answer nor by the time that it takes.
"""

from __future__ import annotations

import hmac

from sqlalchemy import Engine

from aisle.auth.accounts import PREFIX_LENGTH, hash_key, is_name
from aisle.auth.passwords import check_password
from aisle.store import apikeys, users
from aisle.store.engine import reading, writing
from aisle.store.users import User


class NotLetIn(Exception):
    """Wrong name, password, key or token; which of them is nobody's business."""


class ServiceNotLetIn(NotLetIn):
    """A service with a wrong name or key."""


def with_password(engine: Engine, name: str, password: str) -> User:
    """Raises NotLetIn. A hash of another kind than ours is replaced while the password is at hand."""
    with reading(engine) as connection:
        user = users.find(connection, name) if is_name(name) else None
    outcome = check_password(password, user.password_hash if user else None)
    if user is None or not user.is_active or not outcome.is_right:
        raise NotLetIn
    if outcome.new_hash is not None:
        with writing(engine) as connection:
            users.set_password_hash(connection, name, outcome.new_hash)
    return user


def with_api_key(engine: Engine, key: str, name: str = "") -> User:
    """The service whose key it is, which has to be `name` where that is said. Raises ServiceNotLetIn."""
    with reading(engine) as connection:
        prefix = key[:PREFIX_LENGTH]
        found = apikeys.find(connection, prefix) if is_name(prefix) else None
        user = users.find(connection, found.user_name) if found else None
    matches = hmac.compare_digest(hash_key(key), found.key_hash if found else "")
    if found is None or user is None or not matches or found.revoked_at is not None or not user.is_active:
        raise ServiceNotLetIn
    if name not in ("", user.name):
        raise ServiceNotLetIn
    return user

"""Changing accounts: each change and its audit entry in one transaction."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from aisle.auth.passwords import hash_password
from aisle.clock import Clock, utc_now
from aisle.errors import CheckFailed, InputError, UsageError
from aisle.files import sha256_bytes
from aisle.store import apikeys, audit, refresh, users
from aisle.store.apikeys import ApiKey
from aisle.store.engine import reading, writing
from aisle.store.users import Kind, Role, User

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
KEY_MARK = "aisle_"  # a leaked key can be searched for
PREFIX_LENGTH = len(KEY_MARK) + 8


@dataclass(frozen=True)
class Accounts:
    """What administrators do; `who` is written into the audit trail."""

    engine: Engine
    who: str
    clock: Clock = utc_now

    def add_person(self, name: str, role: Role, password: str) -> User:
        """Raises UsageError for a name that is taken, InputError for a bad name or password."""
        with writing(self.engine) as connection:
            return add_person(connection, name, role, password, who=self.who, clock=self.clock)

    def add_service(self, name: str, role: Role) -> tuple[User, str]:
        """A service account and its first API key, which is shown this once."""
        with writing(self.engine) as connection:
            user = User(checked_name(name), Kind.SERVICE, role, None, self.clock(), None)
            _add(connection, user, self.who)
            return user, self._new_key(connection, user)

    def add_api_key(self, name: str) -> str:
        """One more API key for a service account, shown this once. Raises UsageError for a person."""
        with writing(self.engine) as connection:
            user = users.get(connection, name)
            if user.kind is not Kind.SERVICE or not user.is_active:
                raise UsageError(f"{name!r} is not an active service account")
            return self._new_key(connection, user)

    def revoke_api_key(self, name: str, prefix: str) -> None:
        """Raises UsageError for a key that the account has not."""
        with writing(self.engine) as connection:
            key = apikeys.find(connection, prefix)
            if key is None or key.user_name != name:
                raise UsageError(f"{name!r} has no API key {prefix!r}")
            now = self.clock()
            apikeys.revoke(connection, prefix, at=now)
            after = {"prefix": prefix}
            audit.record(connection, who=self.who, what="apikey.revoke", subject=key.user_name, at=now, after=after)

    def disable(self, name: str) -> None:
        """End an account and its sessions; tokens that are out expire by themselves. Disabling again is no error.

        Raises UsageError for a name that nobody has, CheckFailed for the last administrator.
        """
        with writing(self.engine) as connection:
            user = users.get(connection, name)
            if not user.is_active:
                return
            _keep_an_admin(connection, user)
            now = self.clock()
            users.disable(connection, name, at=now)
            refresh.revoke_user(connection, name, at=now)
            audit.record(
                connection, who=self.who, what="user.disable", subject=name, at=now,
                before={"active": True}, after={"active": False},
            )  # fmt: skip

    def set_role(self, name: str, role: Role) -> None:
        """Raises as `disable` does. Tokens that are out keep the old role until they expire."""
        with writing(self.engine) as connection:
            user = users.get(connection, name)
            if user.role is role:
                return
            if role is not Role.ADMIN:
                _keep_an_admin(connection, user)
            users.set_role(connection, name, role)
            audit.record(
                connection, who=self.who, what="user.role", subject=name, at=self.clock(),
                before={"role": user.role}, after={"role": role},
            )  # fmt: skip

    def overview(self) -> list[dict[str, object]]:
        """Every account by name, with the prefixes of its keys and nothing secret."""
        with reading(self.engine) as connection:
            return [
                {
                    "name": user.name,
                    "kind": user.kind.value,
                    "role": user.role.value,
                    "active": user.is_active,
                    "keys": [key.prefix for key in apikeys.of_user(connection, user.name) if key.revoked_at is None],
                }
                for user in users.all_users(connection)
            ]

    def _new_key(self, connection: Connection, user: User) -> str:
        now = self.clock()
        prefix = KEY_MARK + secrets.token_hex(4)
        key = f"{prefix}_{secrets.token_urlsafe(32)}"
        apikeys.add(connection, ApiKey(prefix, hash_key(key), user.name, now))
        audit.record(connection, who=self.who, what="apikey.add", subject=user.name, at=now, after={"prefix": prefix})
        return key


def add_person(
    connection: Connection, name: str, role: Role, password: str, *, who: str, clock: Clock = utc_now
) -> User:
    """As `Accounts.add_person`, in the caller's transaction."""
    user = User(checked_name(name), Kind.PERSON, role, hash_password(password), clock(), None)
    _add(connection, user, who)
    return user


def is_name(name: str) -> bool:
    """Whether it can be one. What cannot is not looked up: a database may choke on it."""
    return _NAME.fullmatch(name) is not None


def checked_name(name: str) -> str:
    """Raises InputError for what cannot be a name."""
    if not is_name(name):
        raise InputError(
            f"{name[:80]!r} cannot be a name",
            hint="Letters, digits and . _ @ + - , 64 at most, not one of these first.",
        )
    return name


def hash_key(secret: str) -> str:
    """For secrets of 256 random bits: nobody guesses those, so a fast hash is enough."""
    return sha256_bytes(secret.encode())


def _add(connection: Connection, user: User, who: str) -> None:
    users.add(connection, user)
    after = {"kind": user.kind, "role": user.role}
    audit.record(connection, who=who, what="user.add", subject=user.name, at=user.created_at, after=after)


def _keep_an_admin(connection: Connection, user: User) -> None:
    if user.role is Role.ADMIN and user.is_active and users.count_admins(connection) == 1:
        raise CheckFailed(f"{user.name!r} is the last administrator", hint="Make another one first.")

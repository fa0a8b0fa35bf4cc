"""Sessions: a sign-in gives an access token and a refresh token, which is good once and gives the next pair.

A refresh token that comes twice was stolen, from the one who comes first or the one who comes second: nobody can
tell, so the whole family of the sign-in ends (RFC 9700, 4.14.2). A session lasts as long as the sign-in allowed,
however often it is refreshed.
"""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine

from aisle.auth.accounts import hash_key
from aisle.auth.login import NotLetIn
from aisle.auth.tokens import Signer
from aisle.clock import Clock, utc_now
from aisle.store import audit, refresh, users
from aisle.store.engine import writing
from aisle.store.refresh import RefreshToken
from aisle.store.users import User


@dataclass(frozen=True)
class Pair:
    access_token: str
    refresh_token: str | None


@dataclass(frozen=True)
class Sessions:
    engine: Engine
    signer: Signer
    lifetime: timedelta
    clock: Clock = utc_now

    def begin(self, user: User) -> Pair:
        """A new session of a person who was let in. Sessions that expired long ago are forgotten by the way."""
        now = self.clock()
        access = self.signer.sign(user.name, user.role)
        with writing(self.engine) as connection:
            refresh.delete_expired(connection, before=now - self.lifetime)
            token = _add(connection, user.name, uuid.uuid4().hex, now, now + self.lifetime)
        return Pair(access, token)

    def access_only(self, user: User) -> Pair:
        """For services: they have their key and need no refresh token."""
        return Pair(self.signer.sign(user.name, user.role), None)

    def renew(self, token: str) -> Pair:
        """The next pair. Raises NotLetIn; a token that was used before ends its session as well."""
        now = self.clock()
        with writing(self.engine) as connection:
            used = refresh.find(connection, hash_key(token))
            if used is None or used.expires_at <= now:
                raise NotLetIn
            user = users.get(connection, used.user_name)
            if refresh.use(connection, used.token_hash, at=now) and user.is_active:
                access = self.signer.sign(user.name, user.role)
                return Pair(access, _add(connection, user.name, used.family, now, used.expires_at))
            # Not an exception yet: it would undo the revocation.
            self._end(connection, used, now, what="session.reuse" if used.used_at else "session.end")
        raise NotLetIn

    def end(self, token: str) -> None:
        """Revoke the session of a refresh token. What is no token of ours is none to revoke (RFC 7009)."""
        with writing(self.engine) as connection:
            found = refresh.find(connection, hash_key(token))
            if found is not None:
                self._end(connection, found, self.clock(), what="session.end")

    def _end(self, connection: Connection, token: RefreshToken, now: datetime, *, what: str) -> None:
        if refresh.revoke_family(connection, token.family, at=now):
            audit.record(connection, who=token.user_name, what=what, subject=token.family, at=now)


def _add(connection: Connection, user_name: str, family: str, now: datetime, expires_at: datetime) -> str:
    token = secrets.token_urlsafe(32)
    refresh.add(connection, RefreshToken(hash_key(token), family, user_name, now, expires_at))
    return token

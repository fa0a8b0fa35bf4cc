"""Who is signed in at a browser: a random cookie, and behind it the tokens that the API would be sent.

A session holds an access token, verified at each request as the API does, and the refresh token of the same sign-in,
by which it is renewed while the console is used. Both lie in the database, sealed under a key that is derived from
the cookie: who reads the database gets neither a session nor a token (docs/decisions/0018-console-session.md).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine

from aisle.auth.keyset import Refused
from aisle.auth.tokens import Identity, Verifier
from aisle.clock import Clock
from aisle.console.desk import TokenService
from aisle.logs import get_logger
from aisle.store import sessions
from aisle.store.engine import reading, writing
from aisle.store.sessions import StoredSession
from aisle.web.problems import Problem, Refusal

CLAIM = timedelta(seconds=15)
"""How long whoever renews a session may take."""
LOOK_AGAIN_SECONDS = 0.1
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Visitor:
    """Who is signed in, and with which cookie."""

    identity: Identity
    secret: str

    @property
    def name(self) -> str:
        return self.identity.user


@dataclass(frozen=True)
class _Tokens:
    access: str
    refresh: str


def csrf_of(secret: str) -> str:
    """What a form has to send along: only a page of ours could be told it."""
    return _derived(secret, "csrf").hex()


def new_secret() -> str:
    return secrets.token_urlsafe(32)


class Sessions:
    """`idle`: how long a session lasts that nobody uses."""

    def __init__(
        self, engine: Engine, verifier: Verifier, tokens: TokenService, *, idle: timedelta, clock: Clock
    ) -> None:
        self._engine = engine
        self._verifier = verifier
        self._tokens = tokens
        self._idle = idle
        self._clock = clock

    async def begin(self, answer: dict[str, Any]) -> Visitor:
        """A session from what the token service answered to a sign-in. Raises Refusal where that is no good token."""
        tokens = _Tokens(answer["access_token"], answer["refresh_token"])
        identity = await self._identity(tokens.access)
        if identity is None:
            raise Refusal(Problem.SIGN_IN_UNAVAILABLE)
        visitor = Visitor(identity, new_secret())
        await run_in_threadpool(self._add, visitor, tokens)
        return visitor

    async def find(self, secret: str, request: Request) -> Visitor | None:
        """Who has this cookie; None: nobody any more. Raises Refusal while that cannot be told."""
        found = await run_in_threadpool(self._read, secret)
        if found is None:
            return None
        stored = found[0]
        tokens: _Tokens | None = found[1]
        if stored.renew_at <= self._clock():
            tokens = await self._renewed(secret, stored, found[1], request)
        identity = None if tokens is None else await self._identity(tokens.access)
        if identity is None and tokens is not None:
            identity = await self._of_another_renewal(secret)
        return None if identity is None else Visitor(identity, secret)

    async def end(self, secret: str, request: Request) -> None:
        """Sign out: here at once, and at the token service."""
        found = await run_in_threadpool(self._read, secret)
        await run_in_threadpool(self._remove, secret)
        if found is None:
            return
        try:
            await self._tokens.ask("/token/revoke", {"token": found[1].refresh}, request)
        except Refusal:  # it will expire
            get_logger(__name__).warning("a refresh token was not revoked", user=found[0].user_name)

    async def _renewed(self, secret: str, stored: StoredSession, tokens: _Tokens, request: Request) -> _Tokens | None:
        """The next tokens, if it is this request's turn to ask for them; a refresh token is good once."""
        if not await run_in_threadpool(self._claim, stored):
            return tokens
        try:
            answer = await self._tokens.ask("/token/refresh", {"refresh_token": tokens.refresh}, request)
        except Refusal:
            if await self._identity(tokens.access) is not None:
                return tokens
            raise
        if answer.status_code != HTTPStatus.OK:  # signed out, disabled, or over
            await run_in_threadpool(self._remove, secret)
            return None
        body = answer.json()
        tokens = _Tokens(body["access_token"], body["refresh_token"])
        identity = await self._identity(tokens.access)
        if identity is not None:
            await run_in_threadpool(self._keep, secret, tokens, identity)
        return tokens

    async def _of_another_renewal(self, secret: str) -> Identity | None:
        """The token has expired while another request, perhaps of another process, renews it."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            found = await run_in_threadpool(self._read, secret)
            if found is None:
                return None
            identity = await self._identity(found[1].access)
            if identity is not None or found[0].renew_at <= self._clock():
                return identity
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
        raise Refusal(Problem.SIGN_IN_UNAVAILABLE, headers={"Retry-After": "5"})

    async def _identity(self, token: str) -> Identity | None:
        try:
            if self._verifier.would_fetch(token):
                return await run_in_threadpool(self._verifier.verify, token)
            return self._verifier.verify(token)
        except Refused:
            return None

    # In a thread

    def _add(self, visitor: Visitor, tokens: _Tokens) -> None:
        now = self._clock()
        stored = StoredSession(
            _id_of(visitor.secret),
            visitor.name,
            _seal(visitor.secret, tokens),
            now,
            renew_at=_renewal(now, visitor.identity),
            expires_at=now + self._idle,
        )
        with writing(self._engine) as connection:
            sessions.delete_expired(connection, before=now)
            sessions.add(connection, stored)

    def _read(self, secret: str) -> tuple[StoredSession, _Tokens] | None:
        with reading(self._engine) as connection:
            stored = sessions.find(connection, _id_of(secret))
        if stored is None or stored.expires_at <= self._clock():
            return None
        tokens = _unseal(secret, stored.sealed)
        return None if tokens is None else (stored, tokens)

    def _claim(self, stored: StoredSession) -> bool:
        now = self._clock()
        with writing(self._engine) as connection:
            return sessions.claim_renewal(connection, stored.id_hash, due=now, until=now + CLAIM)

    def _keep(self, secret: str, tokens: _Tokens, identity: Identity) -> None:
        now = self._clock()
        with writing(self._engine) as connection:
            sessions.renew(
                connection,
                _id_of(secret),
                sealed=_seal(secret, tokens),
                renew_at=_renewal(now, identity),
                expires_at=now + self._idle,
            )

    def _remove(self, secret: str) -> None:
        with writing(self._engine) as connection:
            sessions.remove(connection, _id_of(secret))


def _renewal(now: datetime, identity: Identity) -> datetime:
    """Half-way: early enough for everybody to go on with the old token while one request asks for the next."""
    return now + (identity.expires_at - now) / 2


def _derived(secret: str, purpose: str) -> bytes:
    """One secret, several keys; from none of them another can be found."""
    return hmac.new(secret.encode(), f"aisle console {purpose}".encode(), hashlib.sha256).digest()


def _id_of(secret: str) -> str:
    return _derived(secret, "id").hex()


def _box(secret: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(_derived(secret, "seal")))


def _seal(secret: str, tokens: _Tokens) -> str:
    return _box(secret).encrypt(json.dumps(vars(tokens)).encode()).decode()


def _unseal(secret: str, sealed: str) -> _Tokens | None:
    try:
        return _Tokens(**json.loads(_box(secret).decrypt(sealed.encode())))
    except (InvalidToken, ValueError, TypeError):
        return None

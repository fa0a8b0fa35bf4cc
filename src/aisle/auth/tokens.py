"""Access tokens: signed JWTs that anybody verifies with the published keys, without asking the token service.

    token = Signer(keyring, policy).sign("anne", Role.REVIEWER)
    identity = Verifier(fetch_keys("http://127.0.0.1:8011/.well-known/jwks.json"), policy).verify(token)

How a signature is checked follows from the key and never from the token's header, which its sender writes.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import jwt
from jwt import PyJWK

from aisle.auth.keys import KeyRing
from aisle.auth.keyset import KeySet, Refused
from aisle.clock import Clock, utc_now
from aisle.settings import Settings
from aisle.store.users import Role

TYPE = "at+jwt"  # RFC 9068: an access token, and not another JWT that the same key signed
MAX_LENGTH = 4096
REMEMBERED = 4096  # tokens whose signature need not be computed again: 16 MB where each is as long as it may be
_CLOCKS_DIFFER = timedelta(seconds=30)
_REQUIRED = ["iss", "aud", "sub", "exp", "iat", "jti", "kid", "role"]
# Times are compared with the injected clock below.
_OPTIONS: Any = {"require": _REQUIRED, "verify_exp": False, "verify_iat": False, "verify_nbf": False}

__all__ = ["Identity", "Refused", "Signer", "TokenPolicy", "Verifier"]


@dataclass(frozen=True)
class TokenPolicy:
    """Who issues tokens, whom they are for, and how long they are good."""

    issuer: str
    audience: str
    lifetime: timedelta

    @classmethod
    def of(cls, settings: Settings) -> TokenPolicy:
        minutes = timedelta(minutes=settings.access_token_expire_minutes)
        return cls(settings.token_issuer, settings.token_audience, minutes)


@dataclass(frozen=True)
class Identity:
    """Who a verified token speaks for."""

    user: str
    role: Role
    token_id: str
    expires_at: datetime


class Signer:
    """Signs with the key that signs now."""

    def __init__(self, keyring: KeyRing, policy: TokenPolicy, *, clock: Clock = utc_now) -> None:
        self._keyring = keyring
        self._policy = policy
        self._clock = clock

    def sign(self, user: str, role: Role) -> str:
        key, private = self._keyring.current()
        now = int(self._clock().timestamp())
        claims = {
            "iss": self._policy.issuer,
            "aud": self._policy.audience,
            "sub": user,
            "iat": now,
            "exp": now + int(self._policy.lifetime.total_seconds()),
            "jti": secrets.token_hex(16),
            "kid": key.kid,
            "role": role.value,
        }
        return jwt.encode(claims, private, algorithm=key.algorithm, headers={"kid": key.kid, "typ": TYPE})


class _Verified(NamedTuple):
    """What a token whose signature was right says, and the key that it was checked with."""

    kid: str
    key: PyJWK
    identity: Identity
    issued_at: datetime


class Verifier:
    """Verifies locally against a cached key set; goes on with the keys it has while the token service is away.

    A signature is computed once for a token and a key. All that changes with time is looked at each time: whether the
    key is still published, and whether the token has expired.

    `fetch` returns a JSON Web Key Set or raises. It is called when a key set is due, see `KeySet`.
    """

    def __init__(
        self, fetch: Callable[[], Mapping[str, Any]], policy: TokenPolicy, *, clock: Clock = utc_now
    ) -> None:
        self._keys = KeySet(fetch, clock=clock)
        self._policy = policy
        self._clock = clock
        self._verified: OrderedDict[str, _Verified] = OrderedDict()
        self._lock = threading.Lock()

    def would_fetch(self, token: str) -> bool:
        """Whether `verify` would ask for keys first: a caller on an event loop then verifies in a thread."""
        try:
            return self._keys.is_due(self._key_id(token))
        except Refused:
            return False

    def fetch(self) -> None:
        """Get the keys now, so that the first token need not wait for them; without them there is a warning."""
        self._keys.fetch()

    def verify(self, token: str) -> Identity:
        """Who the token speaks for. Raises Refused, whose text is for the log and not for the client.

        Raises ServiceMissing when no key set was ever to be had.
        """
        kid = self._key_id(token)
        key = self._keys.get(kid)
        found = self._verified.get(token)
        if found is None or found.key is not key:
            found = self._check_signature(token, kid, key)
            self._remember(token, found)
        now = self._clock()
        if found.identity.expires_at <= now:
            raise Refused("expired")
        if found.issued_at > now + _CLOCKS_DIFFER:
            raise Refused("issued in the future")
        return found.identity

    def _key_id(self, token: str) -> str:
        found = self._verified.get(token)
        return found.kid if found is not None else _key_id(token)

    def _check_signature(self, token: str, kid: str, key: PyJWK) -> _Verified:
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._policy.audience,
                issuer=self._policy.issuer,
                options=_OPTIONS,
            )
            identity = Identity(str(claims["sub"]), Role(claims["role"]), str(claims["jti"]), _moment(claims["exp"]))
            issued_at = _moment(claims["iat"])
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise Refused(f"{type(error).__name__}: {error}") from None
        if claims["kid"] != kid:
            raise Refused("the key's id differs between header and claims")
        return _Verified(kid, key, identity, issued_at)

    def _remember(self, token: str, found: _Verified) -> None:
        with self._lock:
            self._verified[token] = found
            if len(self._verified) > REMEMBERED:
                self._verified.popitem(last=False)


def _moment(value: object) -> datetime:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a time that is not a whole number")  # noqa: TRY004  one kind of refusal for all claims
    return datetime.fromtimestamp(value, tz=UTC)


def _key_id(token: str) -> str:
    if len(token) > MAX_LENGTH:
        raise Refused("longer than any token of ours")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise Refused(f"{type(error).__name__}: {error}") from None
    kid = header.get("kid")
    if header.get("typ") != TYPE or not isinstance(kid, str):
        raise Refused("not an access token of ours")
    return kid

"""Signing keys. A key is published before it signs, and stays published until what it signed has expired.

    published  ──signs_from──►  signing  ──signs_until──►  retired  ──verifies_until──►  forgotten

The state follows from the clock, so that every instance changes over at the same moment without being told, and
nobody has to run a second command. Verifiers fetch the key set every few minutes; the lead time is longer than that.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import ECAlgorithm, OKPAlgorithm
from sqlalchemy import Connection, Engine

from aisle.clock import Clock, utc_now
from aisle.errors import AisleError, CheckFailed, ServiceMissing
from aisle.settings import Settings
from aisle.store import audit, signing
from aisle.store.engine import reading, writing
from aisle.store.migrate import take_turns
from aisle.store.signing import StoredKey

Algorithm = Literal["EdDSA", "ES256"]
PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey

_LOCK = 7_237_002
# Clocks differ: a token may still be shown a little after it has expired here.
_GRACE = timedelta(minutes=1)


class State(StrEnum):
    PUBLISHED = "published"
    SIGNING = "signing"
    RETIRED = "retired"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True)
class KeyPolicy:
    """`lead`: how long a new key is published before it signs. `lifetime`: how long a token is good."""

    algorithm: Algorithm
    lead: timedelta
    lifetime: timedelta
    passphrase: str = ""

    @classmethod
    def of(cls, settings: Settings) -> KeyPolicy:
        return cls(
            algorithm=settings.signing_algorithm,
            lead=timedelta(minutes=settings.signing_key_lead_minutes),
            lifetime=timedelta(minutes=settings.access_token_expire_minutes),
            passphrase=settings.signing_key_passphrase.get_secret_value(),
        )


def state_of(key: StoredKey, now: datetime) -> State:
    if now < key.signs_from:
        return State.PUBLISHED
    if key.signs_until is None or now < key.signs_until:
        return State.SIGNING
    if key.verifies_until is None or now < key.verifies_until:
        return State.RETIRED
    return State.FORGOTTEN


def ensure_key(engine: Engine, policy: KeyPolicy, *, clock: Clock = utc_now) -> None:
    """Make the first signing key where there is none; it signs at once, as nobody has fetched keys yet."""
    with writing(engine) as connection:
        take_turns(connection, _LOCK)
        if not signing.all_keys(connection):
            now = clock()
            _publish(connection, policy, now=now, signs_from=now, who="aisle auth")


def rotate(engine: Engine, policy: KeyPolicy, *, who: str, clock: Clock = utc_now) -> StoredKey:
    """Publish a new key, which signs after the lead time; the present one signs until then. Returns the new key.

    Raises CheckFailed while an earlier new key is still waiting to sign.
    """
    with writing(engine) as connection:
        take_turns(connection, _LOCK)
        now = clock()
        keys = signing.all_keys(connection)
        for key in keys:
            if state_of(key, now) is State.PUBLISHED:
                raise CheckFailed(
                    f"key {key.kid} is published and signs from {key.signs_from:%Y-%m-%d %H:%M:%S} UTC",
                    hint="Rotate again after that.",
                )
        signs_from = now + policy.lead if keys else now
        for key in keys:
            if state_of(key, now) is State.SIGNING:
                ends = signs_from + policy.lifetime + _GRACE
                signing.end(connection, key.kid, signs_until=signs_from, verifies_until=ends)
        signing.forget(connection, before=now)
        return _publish(connection, policy, now=now, signs_from=signs_from, who=who)


class KeyRing:
    """The keys of the token service at this moment: one to sign with, and the set that it publishes."""

    def __init__(self, engine: Engine, *, passphrase: str = "", clock: Clock = utc_now) -> None:
        self._engine = engine
        self._passphrase = passphrase
        self._clock = clock
        self._loaded: dict[str, PrivateKey] = {}

    def current(self) -> tuple[StoredKey, PrivateKey]:
        """The key that signs now. Raises ServiceMissing when there is none, AisleError for a wrong passphrase."""
        now = self._clock()
        keys = self._keys()
        signing_now = [key for key in keys if state_of(key, now) is State.SIGNING]
        if not signing_now:  # the clock was set back to before the first one: it is published, and there is no other
            signing_now = [key for key in keys if state_of(key, now) is State.PUBLISHED][:1]
        if not signing_now:
            raise ServiceMissing("there is no signing key", hint="`aisle keys rotate` makes one.")
        key = signing_now[-1]
        if key.kid not in self._loaded:
            self._loaded[key.kid] = _load(key, self._passphrase)
        return key, self._loaded[key.kid]

    def jwks(self) -> dict[str, Any]:
        """The JSON Web Key Set (RFC 7517): every key that signs, will sign, or signed what is still good."""
        now = self._clock()
        return {"keys": [key.public_jwk for key in self._keys() if state_of(key, now) is not State.FORGOTTEN]}

    def _keys(self) -> list[StoredKey]:
        with reading(self._engine) as connection:
            return signing.all_keys(connection)


def _publish(
    connection: Connection, policy: KeyPolicy, *, now: datetime, signs_from: datetime, who: str
) -> StoredKey:
    kid = secrets.token_hex(8)
    private: PrivateKey
    if policy.algorithm == "EdDSA":
        private = Ed25519PrivateKey.generate()
        jwk = OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
    else:
        private = generate_private_key(SECP256R1())
        jwk = ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    how = BestAvailableEncryption(policy.passphrase.encode()) if policy.passphrase else NoEncryption()
    key = StoredKey(
        kid=kid,
        algorithm=policy.algorithm,
        public_jwk=jwk | {"kid": kid, "alg": policy.algorithm, "use": "sig"},
        private_pem=private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how).decode(),
        published_at=now,
        signs_from=signs_from,
    )
    signing.add(connection, key)
    after = {"algorithm": key.algorithm, "signs_from": signs_from.isoformat()}
    audit.record(connection, who=who, what="key.publish", subject=kid, at=now, after=after)
    return key


def _load(key: StoredKey, passphrase: str) -> PrivateKey:
    # The library refuses a passphrase for a key that has none: one set later leaves older keys readable.
    secret = passphrase.encode() if passphrase and "ENCRYPTED" in key.private_pem else None
    try:
        loaded = load_pem_private_key(key.private_pem.encode(), secret)
    except (ValueError, TypeError):
        loaded = None
    if not isinstance(loaded, Ed25519PrivateKey | EllipticCurvePrivateKey):
        hint = "Is SIGNING_KEY_PASSPHRASE the one it was made with?"
        raise AisleError(f"signing key {key.kid} cannot be read", hint=hint)
    return loaded

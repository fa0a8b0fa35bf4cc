"""Tokens: what a verifier believes, and every known way to fool one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Engine
from tests.auth.conftest import SetClock

from aisle.auth.keys import Algorithm, KeyPolicy, KeyRing, PrivateKey, rotate
from aisle.auth.keyset import MAX_AGE, MIN_INTERVAL, fetch_keys
from aisle.auth.tokens import TYPE, Refused, Signer, TokenPolicy, Verifier
from aisle.errors import ServiceMissing, UsageError
from aisle.store.users import Role

POLICY = TokenPolicy("aisle", "aisle", timedelta(minutes=15))


class Service:
    """A key ring whose published set can be taken away, and counts how often it was fetched."""

    def __init__(self, engine: Engine, clock: SetClock, algorithm: Algorithm) -> None:
        self.engine, self.clock = engine, clock
        self.key_policy = KeyPolicy(algorithm, timedelta(minutes=10), timedelta(minutes=15))
        rotate(engine, self.key_policy, who="test", clock=clock)
        self.ring = KeyRing(engine, clock=clock)
        self.signer = Signer(self.ring, POLICY, clock=clock)
        self.fetches, self.is_away = 0, False
        self.verifier = Verifier(self.fetch, POLICY, clock=clock)

    def fetch(self) -> Mapping[str, Any]:
        self.fetches += 1
        if self.is_away:
            raise ConnectionRefusedError
        return self.ring.jwks()

    @property
    def private(self) -> PrivateKey:
        return self.ring.current()[1]

    @property
    def kid(self) -> str:
        return self.ring.current()[0].kid

    def claims(self, **changed: Any) -> dict[str, Any]:
        now = int(self.clock.now.timestamp())
        claims = {"iss": "aisle", "aud": "aisle", "sub": "anne", "iat": now, "exp": now + 900, "jti": "1",
                  "kid": self.kid, "role": "admin"} | changed  # fmt: skip
        return {name: value for name, value in claims.items() if value is not None}

    def forge(self, *, key: Any = None, algorithm: str = "", header: Mapping[str, Any] = {}, **changed: Any) -> str:
        """A token of ours with something changed."""
        headers = {"kid": self.kid, "typ": TYPE} | dict(header)
        algorithm = algorithm or self.ring.current()[0].algorithm
        return jwt.encode(self.claims(**changed), key or self.private, algorithm=algorithm, headers=headers)


@pytest.fixture(params=["EdDSA", "ES256"])
def service(request: pytest.FixtureRequest, engine: Engine, clock: SetClock) -> Service:
    return Service(engine, clock, request.param)


def test_a_token_says_who_what_and_until_when(service: Service, clock: SetClock) -> None:
    token = service.signer.sign("anne", Role.REVIEWER)
    identity = service.verifier.verify(token)
    assert (identity.user, identity.role) == ("anne", Role.REVIEWER)
    assert identity.expires_at == clock.now + timedelta(minutes=15)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert set(claims) == {"iss", "aud", "sub", "exp", "iat", "jti", "kid", "role"}
    assert jwt.get_unverified_header(token)["kid"] == claims["kid"] == service.kid


def test_each_token_has_an_id_of_its_own(service: Service) -> None:
    tokens = [service.verifier.verify(service.signer.sign("anne", Role.ADMIN)).token_id for _ in range(3)]
    assert len(set(tokens)) == 3


def test_what_a_forger_starts_from_is_believed(service: Service) -> None:
    """Or the refusals below would prove nothing."""
    assert service.verifier.verify(service.forge()).user == "anne"


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": "another"}, {"aud": None}, {"iss": "another"}, {"iss": None}, {"sub": None}, {"jti": None},
        {"role": None}, {"role": "root"}, {"kid": "another"}, {"kid": None}, {"exp": None}, {"iat": None},
        {"exp": 0}, {"exp": "tomorrow"}, {"exp": True}, {"exp": 10**30}, {"exp": 1e400}, {"iat": 10**10},
    ],
)  # fmt: skip
def test_a_claim_that_is_wrong_or_missing_is_refused(service: Service, changed: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        service.verifier.verify(service.forge(**changed))


def test_an_expired_token_is_refused_from_its_last_second_on(service: Service, clock: SetClock) -> None:
    token = service.signer.sign("anne", Role.ADMIN)
    clock.advance(minutes=14, seconds=59)
    service.verifier.verify(token)
    clock.advance(seconds=1)
    with pytest.raises(Refused, match="expired"):
        service.verifier.verify(token)


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_a_token_without_a_signature_is_refused(service: Service, name: str) -> None:
    header = json.dumps({"alg": name, "kid": service.kid, "typ": TYPE}).encode()
    body = json.dumps(service.claims()).encode()
    head, tail = (base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (header, body))
    signature = service.signer.sign("anne", Role.ADMIN).rpartition(".")[2]
    for forged in (f"{head}.{tail}.", f"{head}.{tail}.{signature}"):
        with pytest.raises(Refused):
            service.verifier.verify(forged)


@pytest.mark.parametrize("name", ["HS256", "HS384", "HS512"])
def test_the_public_key_as_a_shared_secret_is_refused(service: Service, name: str) -> None:
    public = service.private.public_key()
    [published] = service.ring.jwks()["keys"]
    secrets = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(published).encode(),
        published["x"].encode(),
    ]
    header = json.dumps({"alg": name, "kid": service.kid, "typ": TYPE}).encode()
    body = json.dumps(service.claims()).encode()
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, body))
    for secret in secrets:
        digest = hmac.new(secret, signed, getattr(hashlib, name.replace("HS", "sha"))).digest()
        with pytest.raises(Refused):
            service.verifier.verify((signed + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode())


def test_a_key_that_the_token_brings_along_is_not_believed(service: Service) -> None:
    stranger = Ed25519PrivateKey.generate()
    jwk = jwt.algorithms.OKPAlgorithm.to_jwk(stranger.public_key(), as_dict=True)
    for header in ({"jwk": jwk}, {"jku": "http://127.0.0.1:1/keys"}, {"kid": "../../dev/null"}, {"kid": ""}):
        with pytest.raises(Refused):
            service.verifier.verify(service.forge(key=stranger, algorithm="EdDSA", header=header))


def test_another_kind_of_token_signed_with_the_right_key_is_refused(service: Service) -> None:
    for kind in ("JWT", "at+JWT ", None):
        with pytest.raises(Refused):
            service.verifier.verify(service.forge(header={"typ": kind}))


def test_a_token_that_was_tampered_with_is_refused(service: Service) -> None:
    head, body, signature = service.signer.sign("bob", Role.CLIENT).split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    promoted = base64.urlsafe_b64encode(json.dumps(claims | {"role": "admin"}).encode()).rstrip(b"=").decode()
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    for forged in (f"{head}.{promoted}.{signature}", f"{head}.{body}.{flipped}", f"{head}.{body}.", f"{head}.{body}"):
        with pytest.raises(Refused):
            service.verifier.verify(forged)


@pytest.mark.parametrize("junk", ["", ".", "..", "a.b.c", "é", "\x00", "Bearer x", "x" * 10_000, "e30.e30.e30"])
def test_what_is_no_token_is_refused(service: Service, junk: str) -> None:
    with pytest.raises(Refused):
        service.verifier.verify(junk)


def test_keys_are_fetched_once_and_again_when_they_are_old(service: Service, clock: SetClock) -> None:
    for _ in range(3):
        service.verifier.verify(service.signer.sign("anne", Role.ADMIN))
    assert service.fetches == 1
    clock.advance(seconds=MAX_AGE.total_seconds())
    token = service.signer.sign("anne", Role.ADMIN)
    assert service.verifier.would_fetch(token)
    service.verifier.verify(token)
    assert not service.verifier.would_fetch(token)
    assert service.fetches == 2


def test_invented_key_ids_cause_one_fetch_in_a_while(service: Service, clock: SetClock) -> None:
    service.verifier.verify(service.signer.sign("anne", Role.ADMIN))
    clock.advance(seconds=MIN_INTERVAL.total_seconds())
    for number in range(50):
        with pytest.raises(Refused):
            service.verifier.verify(service.forge(header={"kid": str(number)}))
    assert service.fetches == 2


def test_a_signature_is_computed_once_and_time_is_looked_at_each_time(
    service: Service, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = service.signer.sign("anne", Role.REVIEWER)
    first = service.verifier.verify(token)
    with monkeypatch.context() as patched:
        patched.setattr(jwt, "decode", None)  # whoever calls it fails
        assert service.verifier.verify(token) == first
    clock.now = first.expires_at
    with pytest.raises(Refused, match="expired"):
        service.verifier.verify(token)


def test_a_token_that_was_believed_is_refused_once_its_key_is_withdrawn(
    service: Service, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = service.forge(exp=int(clock.now.timestamp()) + 3600)
    service.verifier.verify(token)
    monkeypatch.setattr(service.ring, "jwks", lambda: {"keys": []})
    clock.now += MAX_AGE
    with pytest.raises(Refused, match="not published"):
        service.verifier.verify(token)


def test_a_token_that_was_believed_is_checked_anew_with_another_key_of_the_same_name(
    service: Service, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = service.forge(exp=int(clock.now.timestamp()) + 3600)
    service.verifier.verify(token)
    [theirs] = service.ring.jwks()["keys"]
    rotate(service.engine, service.key_policy, who="test", clock=clock)
    other = next(one for one in KeyRing(service.engine, clock=clock).jwks()["keys"] if one["kid"] != theirs["kid"])
    monkeypatch.setattr(service.ring, "jwks", lambda: {"keys": [other | {"kid": theirs["kid"]}]})
    clock.now += MAX_AGE
    with pytest.raises(Refused, match="Signature"):
        service.verifier.verify(token)


def test_only_so_many_tokens_are_remembered(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aisle.auth.tokens.REMEMBERED", 2)
    tokens = [service.signer.sign(f"user {number}", Role.REVIEWER) for number in range(3)]
    assert [service.verifier.verify(token).user for token in tokens] == ["user 0", "user 1", "user 2"]
    assert list(service.verifier._verified) == tokens[1:]


def test_tokens_are_verified_while_the_token_service_is_away(service: Service, clock: SetClock) -> None:
    service.verifier.verify(service.signer.sign("anne", Role.ADMIN))
    service.is_away = True
    for _ in range(10):
        clock.advance(minutes=10)
        assert service.verifier.verify(service.signer.sign("anne", Role.ADMIN)).user == "anne"


def test_a_verifier_that_never_had_a_key_says_so_and_recovers(service: Service, clock: SetClock) -> None:
    service.is_away = True
    token = service.signer.sign("anne", Role.ADMIN)
    with pytest.raises(ServiceMissing, match="aisle auth"):
        service.verifier.verify(token)
    service.is_away = False
    clock.advance(seconds=MIN_INTERVAL.total_seconds())
    assert service.verifier.verify(token).user == "anne"


@pytest.mark.parametrize(
    "published",
    [
        {},
        {"keys": None},
        {"keys": ["1", None]},
        {"keys": [{"kid": "1"}]},
        {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "1", "alg": "HS256"}]},
    ],
)
def test_a_key_set_with_nothing_that_we_sign_with_is_no_way_in(clock: SetClock, published: Any) -> None:
    forged = jwt.encode({"sub": "anne"}, "secret" * 8, algorithm="HS256", headers={"kid": "1", "typ": TYPE})
    with pytest.raises((Refused, ServiceMissing)):
        Verifier(lambda: published, POLICY, clock=clock).verify(forged)


def test_keys_are_fetched_over_http_only() -> None:
    with pytest.raises(UsageError):
        fetch_keys("file:///etc/passwd")

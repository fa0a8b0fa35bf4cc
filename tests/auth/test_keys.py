"""Keys: published before they sign, kept until what they signed has expired."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine
from tests.auth.conftest import SetClock

from aisle.auth.keys import KeyPolicy, KeyRing, ensure_key, rotate
from aisle.auth.keyset import MAX_AGE
from aisle.auth.tokens import Signer, TokenPolicy, Verifier
from aisle.errors import AisleError, CheckFailed, ServiceMissing
from aisle.settings import Settings
from aisle.store import audit
from aisle.store.engine import reading
from aisle.store.users import Role

POLICY = KeyPolicy("EdDSA", lead=timedelta(minutes=10), lifetime=timedelta(minutes=15))
TOKENS = TokenPolicy("aisle", "aisle", timedelta(minutes=15))


def kids(ring: KeyRing) -> set[str]:
    return {key["kid"] for key in ring.jwks()["keys"]}


def test_a_new_key_is_published_first_signs_later_and_the_old_one_goes_last(engine: Engine, clock: SetClock) -> None:
    ensure_key(engine, POLICY, clock=clock)
    ring = KeyRing(engine, clock=clock)
    old = ring.current()[0].kid

    new = rotate(engine, POLICY, who="test", clock=clock).kid
    assert kids(ring) == {old, new}
    assert ring.current()[0].kid == old  # published, not yet signing

    clock.advance(minutes=9, seconds=59)
    assert ring.current()[0].kid == old
    clock.advance(seconds=1)
    assert ring.current()[0].kid == new  # signing
    assert kids(ring) == {old, new}  # the old one is retired, and still verifies

    clock.advance(minutes=15)
    assert old in kids(ring)
    clock.advance(minutes=1)
    assert kids(ring) == {new}


def test_no_token_is_refused_at_any_moment_of_a_rotation(engine: Engine, clock: SetClock) -> None:
    """A token of each minute verifies for all its life, with a key set as old as a verifier lets it become."""
    ensure_key(engine, POLICY, clock=clock)
    ring = KeyRing(engine, clock=clock)
    signer, verifier = Signer(ring, TOKENS, clock=clock), Verifier(ring.jwks, TOKENS, clock=clock)
    tokens: list[str] = []
    for minute in range(60):
        if minute == 5:
            rotate(engine, POLICY, who="test", clock=clock)
        tokens = [*tokens[-14:], signer.sign("anne", Role.ADMIN)]
        for token in tokens:
            assert verifier.verify(token).user == "anne"
        clock.advance(minutes=1)


def test_the_lead_time_is_longer_than_verifiers_keep_keys() -> None:
    with pytest.raises(ValueError, match="signing_key_lead_minutes"):
        Settings(signing_key_lead_minutes=5)
    assert timedelta(minutes=Settings().signing_key_lead_minutes) > MAX_AGE


def test_a_key_that_waits_to_sign_is_not_rotated_away(engine: Engine, clock: SetClock) -> None:
    ensure_key(engine, POLICY, clock=clock)
    waiting = rotate(engine, POLICY, who="test", clock=clock).kid
    with pytest.raises(CheckFailed, match=waiting):
        rotate(engine, POLICY, who="test", clock=clock)
    clock.advance(minutes=10)
    rotate(engine, POLICY, who="test", clock=clock)


def test_the_first_key_signs_at_once_and_is_made_once(engine: Engine, clock: SetClock) -> None:
    ring = KeyRing(engine, clock=clock)
    with pytest.raises(ServiceMissing, match="signing key"):
        ring.current()
    ensure_key(engine, POLICY, clock=clock)
    first = ring.current()[0].kid
    ensure_key(engine, POLICY, clock=clock)
    assert kids(ring) == {first}


def test_the_published_set_holds_nothing_private(engine: Engine, clock: SetClock) -> None:
    for algorithm, members in (("EdDSA", {"x"}), ("ES256", {"x", "y"})):
        policy = KeyPolicy(algorithm, POLICY.lead, POLICY.lifetime)  # type: ignore[arg-type]
        rotate(engine, policy, who="test", clock=clock)
        clock.advance(hours=1)
        published: dict[str, Any] = KeyRing(engine, clock=clock).jwks()["keys"][-1]
        assert set(published) == {"kty", "crv", "kid", "alg", "use"} | members
        assert published["alg"] == algorithm


def test_a_private_key_with_a_passphrase_is_stored_encrypted(engine: Engine, clock: SetClock) -> None:
    policy = KeyPolicy("EdDSA", POLICY.lead, POLICY.lifetime, passphrase="a passphrase")
    stored = rotate(engine, policy, who="test", clock=clock)
    assert "ENCRYPTED" in stored.private_pem
    assert KeyRing(engine, passphrase="a passphrase", clock=clock).current()[0] == stored
    for wrong in ("", "another"):
        with pytest.raises(AisleError, match="cannot be read"):
            KeyRing(engine, passphrase=wrong, clock=clock).current()


def test_a_rotation_is_in_the_audit_trail_without_the_key(engine: Engine, clock: SetClock) -> None:
    key = rotate(engine, POLICY, who="cli:root", clock=clock)
    with reading(engine) as connection:
        [entry] = audit.entries(connection)
    assert (entry.who, entry.what, entry.subject, entry.at) == ("cli:root", "key.publish", key.kid, clock.now)
    assert entry.after is not None
    assert set(entry.after) == {"algorithm", "signs_from"}

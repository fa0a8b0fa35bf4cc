"""The clock jumps by an hour, either way: people sign in, products are predicted, and what was said stays true."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine
from tests.servers import RunningRedis
from tests.service.conftest import Starter

from aisle.auth.keys import KeyPolicy, KeyRing, ensure_key, rotate
from aisle.auth.keyset import Refused
from aisle.auth.tokens import Signer, TokenPolicy, Verifier
from aisle.settings import Settings
from aisle.store import predictions
from aisle.store.engine import reading
from aisle.store.users import Role
from aisle.web.limits import Counter, Limit, Throttled

HOUR = timedelta(hours=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=[HOUR, -HOUR], ids=["forward", "back"])
def jump(request: pytest.FixtureRequest) -> timedelta:
    found: timedelta = request.param
    return found


class Tokens:
    """A token service, and a service that believes it, by the same clock."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        settings = Settings()
        self.engine, self.clock, self.keys = engine, clock, KeyPolicy.of(settings)
        ensure_key(engine, self.keys, clock=clock)
        self.ring = KeyRing(engine, clock=clock)
        self.fetched = 0
        self.signer = Signer(self.ring, TokenPolicy.of(settings), clock=clock)
        self.verifier = Verifier(self._fetch, TokenPolicy.of(settings), clock=clock)

    def _fetch(self) -> Mapping[str, Any]:
        self.fetched += 1
        return self.ring.jwks()


def test_whoever_signs_in_after_a_jump_is_believed(engine: Engine, clock: Clock, jump: timedelta) -> None:
    tokens = Tokens(engine, clock)
    before = tokens.signer.sign("anne", Role.CLIENT)
    assert tokens.verifier.verify(before).user == "anne"
    clock.now += jump
    with pytest.raises(Refused):  # expired, or from a time that is still to come
        tokens.verifier.verify(before)
    assert tokens.verifier.verify(tokens.signer.sign("anne", Role.CLIENT)).user == "anne"


def test_a_key_that_is_new_after_a_jump_is_fetched_at_once(engine: Engine, clock: Clock, jump: timedelta) -> None:
    tokens = Tokens(engine, clock)
    tokens.verifier.verify(tokens.signer.sign("anne", Role.CLIENT))
    clock.now += jump
    if jump > timedelta(0):
        rotate(engine, tokens.keys, who="test", clock=clock)
        clock.now += tokens.keys.lead
    fetched = tokens.fetched
    assert tokens.verifier.verify(tokens.signer.sign("anne", Role.CLIENT)).user == "anne"
    assert tokens.fetched == fetched + 1  # also where nothing is new: what was fetched in the future is old


def test_limits_count_on_after_a_jump(clock: Clock, jump: timedelta) -> None:
    counter, limit = Counter(clock=clock), Limit("predict", 2, timedelta(minutes=1))
    for _ in range(2):
        counter.take(limit, "anne")
    clock.now += jump
    for _ in range(2):
        counter.take(limit, "anne")
    with pytest.raises(Throttled) as throttled:
        counter.take(limit, "anne")
    assert throttled.value.retry_after <= 120


@pytest.mark.slow
def test_redis_is_asked_again_after_a_jump(redis_server: RunningRedis, clock: Clock, jump: timedelta) -> None:
    counter, limit = Counter(redis_server.url, clock=clock), Limit("predict", 100, timedelta(minutes=1))
    redis_server.process.send_signal(signal.SIGSTOP)
    counter.take(limit, "anne")
    assert counter.is_degraded
    redis_server.process.send_signal(signal.SIGCONT)
    clock.now += jump
    counter.take(limit, "anne")
    assert not counter.is_degraded


def test_predictions_and_corrections_go_on(start_service: Starter, clock: Clock, jump: timedelta) -> None:
    service = start_service(clock=clock)
    ids = []
    for _ in range(2):
        answer = service.post("/predict", name="anne", json={"designation": "Piscine ronde"})
        assert answer.status_code == 200, answer.text
        ids.append(answer.json()["prediction_id"])
        clock.now += jump
    code = answer.json()["predicted"]
    for one in ids:
        said = service.post("/feedback", name="anne", json={"prediction_id": one, "type": code})
        assert said.status_code == 201, said.text
    with reading(service.engine) as connection:
        found = [predictions.find(connection, one) for one in ids]
    assert [one.created_at for one in found if one is not None] == [NOON, NOON + jump]

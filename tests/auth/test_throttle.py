"""Sign-ins are slowed down, by a clock that the test sets."""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.auth.conftest import SetClock

from aisle.auth.throttle import LoginThrottle
from aisle.errors import UsageError
from aisle.settings import Settings
from aisle.web.limits import Counter, Limit, Throttled

if TYPE_CHECKING:
    from tests.servers import RunningRedis

TEN = Limit("test", 10, timedelta(minutes=15))


def wait_of(counter: Counter, key: str = "anne") -> int:
    """Seconds to wait for one more; 0 when it was counted."""
    try:
        counter.take(TEN, key)
    except Throttled as throttled:
        return throttled.retry_after
    return 0


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.slow)])
def counter(request: pytest.FixtureRequest, clock: SetClock) -> Counter:
    if request.param == "memory":
        return Counter(clock=clock)
    server: RunningRedis = request.getfixturevalue("redis_server")
    return Counter(server.url, clock=clock)


def test_ten_pass_and_the_eleventh_waits(counter: Counter) -> None:
    assert [wait_of(counter) for _ in range(10)] == [0] * 10
    assert wait_of(counter) > 0
    assert wait_of(counter, "bob") == 0
    assert not counter.is_degraded


@pytest.mark.parametrize("minutes", [0, 7, 14.9])
def test_who_waits_as_long_as_told_may_go_on_and_not_a_second_earlier(
    counter: Counter, clock: SetClock, minutes: float
) -> None:
    clock.advance(minutes=minutes)
    for _ in range(10):
        wait_of(counter)
    wait = wait_of(counter)
    assert 60 < wait <= 2 * TEN.window.total_seconds()
    clock.advance(seconds=wait - 2)
    assert wait_of(counter) > 0
    clock.advance(seconds=2)
    assert wait_of(counter) == 0


def test_the_turn_of_a_window_wins_nothing(counter: Counter, clock: SetClock) -> None:
    clock.advance(minutes=14, seconds=59)  # 12:00 is the turn of a window
    for _ in range(10):
        wait_of(counter)
    clock.advance(seconds=2)
    assert wait_of(counter) > 60


def test_waiting_is_not_made_longer_by_trying(counter: Counter) -> None:
    for _ in range(10):
        wait_of(counter)
    first = wait_of(counter)
    assert [wait_of(counter) for _ in range(50)] == [first] * 50


def test_a_success_forgets_the_failures(counter: Counter) -> None:
    for _ in range(10):
        wait_of(counter)
    counter.clear(TEN, "anne")
    assert wait_of(counter) == 0


def test_guesses_at_the_same_moment_are_counted_one_by_one(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are told that they need not wait, before any of them is counted."""
    passed: list[bool] = []
    told = threading.Barrier(24)
    look = counter._spent
    monkeypatch.setattr(counter, "_spent", lambda *which: (look(*which), told.wait(timeout=30))[0])

    def guess() -> None:
        with contextlib.suppress(Throttled, threading.BrokenBarrierError):
            counter.take(TEN, "anne")
            passed.append(True)

    threads = [threading.Thread(target=guess) for _ in range(24)]
    for thread in threads:
        thread.start()
    while len(passed) < 10 and any(thread.is_alive() for thread in threads):
        threads[0].join(0.01)
    told.abort()  # those that are refused look a second time, for how long to wait
    for thread in threads:
        thread.join()
    assert len(passed) == 10


def test_an_address_may_try_thirty_times_a_minute_whatever_the_account(clock: SetClock) -> None:
    throttle = LoginThrottle(Counter(clock=clock), Settings())
    for number in range(30):
        throttle.attempt(f"user{number}", "192.0.2.1")
    with pytest.raises(Throttled):
        throttle.attempt("another", "192.0.2.1")
    throttle.attempt("another", "192.0.2.2")


def test_a_customer_of_a_provider_is_one_address(clock: SetClock) -> None:
    throttle = LoginThrottle(Counter(clock=clock), Settings(login_attempts_per_minute=1))
    throttle.attempt(None, "2001:db8::1")
    with pytest.raises(Throttled):
        throttle.attempt(None, "2001:db8::2:3")
    throttle.attempt(None, "2001:db8:0:1::1")


def test_an_address_of_another_kind_of_server_is_refused(clock: SetClock) -> None:
    with pytest.raises(UsageError, match="REDIS_URL"):
        Counter("memcached://127.0.0.1", clock=clock)


@pytest.mark.slow
def test_two_instances_share_their_counts_in_redis(redis_server: RunningRedis, clock: SetClock) -> None:
    one, other = Counter(redis_server.url, clock=clock), Counter(redis_server.url, clock=clock)
    for _ in range(5):
        assert wait_of(one) == wait_of(other) == 0
    assert wait_of(one) > 0
    assert wait_of(other) > 0


@pytest.mark.slow
def test_while_redis_is_away_counting_goes_on_in_memory(
    redis_server: RunningRedis, clock: SetClock, tmp_path: Path
) -> None:
    counter = Counter(redis_server.url, clock=clock)
    assert wait_of(counter) == 0
    redis_server.process.terminate()
    redis_server.process.wait()
    assert [wait_of(counter) for _ in range(10)] == [0] * 10
    assert counter.is_degraded
    assert wait_of(counter) > 0

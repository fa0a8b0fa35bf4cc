"""Counting in one process: it fades by the clock that is given, costs no thread, and forgets what is over."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from tests.auth.conftest import SetClock

from aisle.web import limits
from aisle.web.limits import Counter, Limit, Throttled

LIMIT = Limit("predict", 3, timedelta(minutes=1))


def test_a_count_fades_by_the_clock_that_is_given() -> None:
    clock = SetClock()
    counter = Counter(clock=clock)
    for left in (2, 1, 0):
        assert counter.take(LIMIT, "anne").left == left
    with pytest.raises(Throttled):
        counter.take(LIMIT, "anne")
    assert counter.take(LIMIT, "carl").left == 2
    clock.advance(minutes=2)
    assert counter.take(LIMIT, "anne").left == 2


def test_counting_starts_no_thread() -> None:
    counter = Counter()
    before = threading.enumerate()
    counter.take(LIMIT, "anne")
    assert threading.enumerate() == before


def test_of_many_that_race_as_many_get_it_as_may() -> None:
    counter, many = Counter(), Limit("predict", 50, timedelta(minutes=10))

    def take(_: int) -> bool:
        try:
            counter.take(many, "anne")
        except Throttled:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(400))) == 50


def test_what_is_over_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LEAST_ROOM", 10)
    clock = SetClock()
    counter = Counter(clock=clock)
    for number in range(10):
        counter.take(LIMIT, f"user {number}")
    clock.advance(minutes=10)
    counter.take(LIMIT, "anne")
    assert len(counter._memory._counts) == 1

"""How often something may be done: counts by key that fade, in memory, or in Redis for every instance.

While Redis is away each instance counts for itself: people are still answered, and `is_degraded` tells a metric.

The window slides: the last full window counts by the share of it that is still within reach, so that waiting for
the turn of a window wins nothing.
"""

from __future__ import annotations

import hashlib
import math
import threading
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from limits.errors import StorageError
from limits.storage import Storage, storage_from_string

from aisle.clock import Clock, utc_now
from aisle.errors import UsageError
from aisle.logs import get_logger

REDIS_SECONDS = 0.5
RETRY_REDIS = timedelta(seconds=5)
LEAST_ROOM = 1024


@dataclass(frozen=True)
class Limit:
    """At most `count` within `window`."""

    name: str
    count: int
    window: timedelta


@dataclass(frozen=True)
class Allowance:
    """What is left of a limit, and in how many seconds all of it will be there again."""

    limit: Limit
    left: int
    reset: int

    def headers(self) -> dict[str, str]:
        """`RateLimit-Policy` and `RateLimit` as draft-ietf-httpapi-ratelimit-headers has them."""
        window = _seconds(self.limit)
        return {
            "RateLimit-Policy": f'"{self.limit.name}";q={self.limit.count};w={window}',
            "RateLimit": f'"{self.limit.name}";r={self.left};t={self.reset}',
        }


class Throttled(Exception):
    """Too many attempts: the next one makes sense in `retry_after` seconds."""

    def __init__(self, limit: Limit, retry_after: int) -> None:
        self.limit = limit
        self.retry_after = retry_after
        super().__init__(f"wait {retry_after} s")

    def headers(self) -> dict[str, str]:
        allowance = Allowance(self.limit, 0, self.retry_after)
        return {"Retry-After": str(self.retry_after), **allowance.headers()}


@dataclass(frozen=True)
class _Spent:
    """What was counted in this window (its number, and how many seconds of it are over) and in the one before."""

    index: int
    elapsed: float
    current: int
    previous: int

    def wait(self, limit: Limit) -> int:
        """Seconds until one more is within the limit; 0: now."""
        window = _seconds(limit)
        # The last of `count` is allowed while less than `count` are within reach.
        if self.current >= limit.count:
            left = window - self.elapsed + window * (1 - (limit.count - 1) / self.current)
        elif self.previous and self.current + self._previous_within_reach(window) > limit.count - 1:
            left = window * (1 - (limit.count - 1 - self.current) / self.previous) - self.elapsed
        else:
            return 0
        return max(1, math.ceil(left))

    def allowance(self, limit: Limit) -> Allowance:
        window = _seconds(limit)
        left = limit.count - self.current - self._previous_within_reach(window)
        return Allowance(limit, max(0, math.floor(left)), max(1, math.ceil(window - self.elapsed)))

    def _previous_within_reach(self, window: int) -> float:
        return self.previous * (1 - self.elapsed / window)


class Counter:
    """Counts that fade, by key, in memory or in Redis."""

    def __init__(self, redis_url: str = "", *, clock: Clock = utc_now) -> None:
        self._clock = clock
        self._memory = _Memory(clock)
        self._shared = _redis(redis_url) if redis_url else None
        self._redis_again: datetime | None = None

    @property
    def asks_redis(self) -> bool:
        """Whether counting waits for the network: not on an event loop, then."""
        return self._shared is not None

    @property
    def is_degraded(self) -> bool:
        """Whether a Redis is set and was away when it was last asked."""
        return self._redis_again is not None

    def take(self, limit: Limit, key: str) -> Allowance:
        """Count one, or raise Throttled and count nothing. Two that race for the last one do not both get it."""
        spent = self._spent(limit, key)
        if spent.wait(limit) > 0:
            raise Throttled(limit, spent.wait(limit))
        current = self._call("incr", _name(limit, key, spent.index), 2 * _seconds(limit))
        spent = replace(spent, current=current)
        if current > limit.count:
            raise Throttled(limit, max(1, spent.wait(limit)))
        return spent.allowance(limit)

    def clear(self, limit: Limit, key: str) -> None:
        """Forget what was counted."""
        now, _ = self._place(limit)
        for index in (now, now - 1):
            self._call("clear", _name(limit, key, index))

    def _spent(self, limit: Limit, key: str) -> _Spent:
        index, elapsed = self._place(limit)
        current, previous = (self._call("get", _name(limit, key, one)) for one in (index, index - 1))
        return _Spent(index, elapsed, current, previous)

    def _place(self, limit: Limit) -> tuple[int, float]:
        """The number of the window that it is now, and the seconds of it that are over."""
        now = self._clock().timestamp()
        index = int(now) // _seconds(limit)
        return index, now - index * _seconds(limit)

    def _call(self, operation: str, *arguments: object) -> int:
        if self._shared is not None and self._is_redis_due():
            try:
                result = getattr(self._shared, operation)(*arguments)
            except StorageError as error:
                if self._redis_again is None:
                    reason = type(error.storage_error).__name__
                    get_logger(__name__).warning("Redis is away, counting in memory", reason=reason)
                self._redis_again = self._clock() + RETRY_REDIS
            else:
                self._redis_again = None
                return int(result or 0)
        return int(getattr(self._memory, operation)(*arguments) or 0)

    def _is_redis_due(self) -> bool:
        if self._redis_again is None:
            return True
        wait = self._redis_again - self._clock()
        return not timedelta(0) < wait <= RETRY_REDIS  # longer: the clock was set back


class _Memory:
    """Counts of this process, with what is used of a storage of `limits`.

    Whose own starts a thread with nearly every count, for which a request waits half a millisecond.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts: dict[str, tuple[int, float]] = {}  # key → how many, and until when
        self._room = LEAST_ROOM
        self._lock = threading.Lock()

    def incr(self, key: str, expiry: int) -> int:
        """One more; a key that is new is kept for `expiry` seconds."""
        now = self._clock().timestamp()
        with self._lock:
            count, until = self._counts.get(key, (0, 0.0))
            if until <= now:
                count, until = 0, now + expiry
                self._make_room(now)
            self._counts[key] = count + 1, until
            return count + 1

    def get(self, key: str) -> int:
        count, until = self._counts.get(key, (0, 0.0))
        return count if until > self._clock().timestamp() else 0

    def clear(self, key: str) -> None:
        with self._lock:
            self._counts.pop(key, None)

    def _make_room(self, now: float) -> None:
        """Forget what is over whenever the keys have doubled: a count costs the same however many there are."""
        if len(self._counts) >= self._room:
            self._counts = {key: one for key, one in self._counts.items() if one[1] > now}
            self._room = max(LEAST_ROOM, 2 * len(self._counts))


def _redis(url: str) -> Storage:
    if not url.startswith(("redis://", "rediss://")):
        raise UsageError("REDIS_URL is not redis://HOST:PORT/NUMBER or rediss://…", where="settings")
    # `wrap_exceptions` makes one kind of error of all that a network can do.
    options = {"socket_timeout": REDIS_SECONDS, "socket_connect_timeout": REDIS_SECONDS, "retry": None}
    return storage_from_string(url, wrap_exceptions=True, **options)  # type: ignore[arg-type,return-value]


def _seconds(limit: Limit) -> int:
    return int(limit.window.total_seconds())


def _name(limit: Limit, key: str, index: int) -> str:
    # Hashed: a name that somebody sent can have any length and any characters.
    return f"aisle:{limit.name}:{hashlib.sha256(key.encode()).hexdigest()[:32]}:{index}"

"""How often a sign-in may be tried: failures for each account, attempts for each address.

Counts lie in memory, or in Redis, where every instance sees them. While Redis is away each instance counts for
itself: people go on signing in, and `is_degraded` says so for a metric.

The window slides: the last full window counts by the share of it that is still within reach, so that waiting for the
turn of a window wins nothing. An account that does not exist is counted like any other, or its answers would differ.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from limits.errors import StorageError
from limits.storage import MemoryStorage, Storage, storage_from_string

from aisle.auth.clock import Clock, utc_now
from aisle.errors import UsageError
from aisle.logs import get_logger
from aisle.settings import Settings

REDIS_SECONDS = 0.5
RETRY_REDIS = timedelta(seconds=5)


class Throttled(Exception):
    """Too many attempts: the next one makes sense in `retry_after` seconds."""

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"wait {retry_after} s")


@dataclass(frozen=True)
class Limit:
    """At most `count` within `window`."""

    name: str
    count: int
    window: timedelta


class Counter:
    """Counts that fade, by key, in memory or in Redis."""

    def __init__(self, redis_url: str = "", *, clock: Clock = utc_now) -> None:
        self._clock = clock
        self._memory: Storage = MemoryStorage()
        self._shared = _redis(redis_url) if redis_url else None
        self._redis_again: datetime | None = None

    @property
    def is_degraded(self) -> bool:
        """Whether a Redis is set and was away when it was last asked."""
        return self._redis_again is not None

    def take(self, limit: Limit, key: str) -> None:
        """Count one, or raise Throttled and count nothing. Two that race for the last one do not both get it."""
        wait = self._wait(limit, key)
        if wait > 0:
            raise Throttled(wait)
        now, window = self._place(limit)
        fresh = self._increase(_name(limit, key, now), window)
        if fresh > limit.count:
            raise Throttled(max(1, self._wait(limit, key)))

    def clear(self, limit: Limit, key: str) -> None:
        """Forget what was counted."""
        now, _ = self._place(limit)
        for index in (now, now - 1):
            self._call("clear", _name(limit, key, index))

    def _wait(self, limit: Limit, key: str) -> int:
        """Seconds until one more is within the limit; 0: now."""
        index, window = self._place(limit)
        elapsed = self._clock().timestamp() - index * window
        current = self._call("get", _name(limit, key, index))
        previous = self._call("get", _name(limit, key, index - 1))
        # The last of `count` is allowed while less than `count` are within reach.
        if current >= limit.count:
            left = window - elapsed + window * (1 - (limit.count - 1) / current)
        elif previous and current + previous * (1 - elapsed / window) > limit.count - 1:
            left = window * (1 - (limit.count - 1 - current) / previous) - elapsed
        else:
            return 0
        return max(1, math.ceil(left))

    def _place(self, limit: Limit) -> tuple[int, int]:
        window = int(limit.window.total_seconds())
        return int(self._clock().timestamp()) // window, window

    def _increase(self, name: str, window: int) -> int:
        return self._call("incr", name, 2 * window)

    def _call(self, operation: str, *arguments: object) -> int:
        if self._shared is not None and (self._redis_again is None or self._clock() >= self._redis_again):
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


class LoginThrottle:
    """`attempt` before a password is looked at, `succeeded` when it was right."""

    def __init__(self, counter: Counter, settings: Settings) -> None:
        self._counter = counter
        window = timedelta(minutes=settings.login_window_minutes)
        self._account = Limit("login-account", settings.login_failures, window)
        self._address = Limit("login-address", settings.login_attempts_per_minute, timedelta(minutes=1))

    def attempt(self, account: str | None, address: str) -> None:
        """Count an attempt as failed until `succeeded` says otherwise. Raises Throttled.

        An API key is not counted by account: nobody guesses one, and anybody could lock a service out.
        """
        self._counter.take(self._address, _network(address))
        if account is not None:
            self._counter.take(self._account, account)

    def succeeded(self, account: str) -> None:
        self._counter.clear(self._account, account)


def _redis(url: str) -> Storage:
    if not url.startswith(("redis://", "rediss://")):
        raise UsageError("REDIS_URL is not redis://HOST:PORT/NUMBER or rediss://…", where="settings")
    # `wrap_exceptions` makes one kind of error of all that a network can do.
    options = {"socket_timeout": REDIS_SECONDS, "socket_connect_timeout": REDIS_SECONDS, "retry": None}
    return storage_from_string(url, wrap_exceptions=True, **options)  # type: ignore[arg-type,return-value]


def _name(limit: Limit, key: str, index: int) -> str:
    # Hashed: a name that somebody sent can have any length and any characters.
    return f"aisle:{limit.name}:{hashlib.sha256(key.encode()).hexdigest()[:32]}:{index}"


def _network(address: str) -> str:
    """One customer of a provider: an IPv4 address, or an IPv6 /64, within which anybody can have any address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 6:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address

"""How often each user may ask for what, by role: `RATE_LIMITS`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import limits
from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from aisle.auth.access import SignedIn
from aisle.auth.tokens import Identity
from aisle.errors import UsageError
from aisle.store.users import Role
from aisle.web.limits import Counter, Limit
from aisle.web.metrics import LIMITS_DEGRADED
from aisle.web.requests import add_headers

ROUTES = ("predict", "explain", "feedback", "model", "batches", "results", "preview")
"""`preview` is the console's, while somebody types."""


class RateLimits:
    """`of(route, role)`: the limit of the role, or of everybody. Raises UsageError for what is no limit."""

    def __init__(self, text: str) -> None:
        self._limits: dict[tuple[str, Role | None], Limit] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, rate = (word.strip() for word in part.partition("="))
            route, _, role = name.partition(":")
            self._limits[_route(route, part), _role(role, part)] = _limit(route, rate, part)

    def of(self, route: str, role: Role) -> Limit | None:
        return self._limits.get((route, role)) or self._limits.get((route, None))


def limited(route: str) -> Callable[..., Awaitable[Identity]]:
    """A dependency: the signed-in user, who has asked within the limits. Raises Throttled (429)."""

    async def within_limits(request: Request, identity: SignedIn) -> Identity:
        await count_one(request, identity, route, request.app.state.rates, request.app.state.counter)
        return identity

    return within_limits


async def count_one(request: Request, identity: Identity, route: str, rates: RateLimits, counter: Counter) -> None:
    """Raises Throttled where that was one too many."""
    limit = rates.of(route, identity.role)
    if limit is None:
        return
    if counter.asks_redis:
        allowance = await run_in_threadpool(counter.take, limit, identity.user)
        LIMITS_DEGRADED.set(counter.is_degraded)
    else:
        allowance = counter.take(limit, identity.user)
    add_headers(request, allowance.headers())


def _route(name: str, part: str) -> str:
    if name not in ROUTES:
        raise _unusable(part, f"the routes are {', '.join(ROUTES)}")
    return name


def _role(name: str, part: str) -> Role | None:
    try:
        return Role(name) if name else None
    except ValueError:
        raise _unusable(part, f"the roles are {', '.join(Role)}") from None


def _limit(name: str, rate: str, part: str) -> Limit:
    try:
        parsed = limits.parse(rate)
    except ValueError:
        raise _unusable(part, "a rate is COUNT/PERIOD, such as 10/minute") from None
    if parsed.amount < 1:
        raise _unusable(part, "a rate is at least 1")
    return Limit(name, parsed.amount, timedelta(seconds=parsed.get_expiry()))


def _unusable(part: str, why: str) -> UsageError:
    return UsageError(f"RATE_LIMITS: {part!r}: {why}", where="settings")

"""How often a sign-in may be tried: failures for each account, attempts for each address.

An account that does not exist is counted like any other, or its answers would differ.
"""

from __future__ import annotations

from datetime import timedelta

from aisle.settings import Settings
from aisle.web.address import customer
from aisle.web.limits import Allowance, Counter, Limit


class LoginThrottle:
    """`attempt` before a password is looked at, `succeeded` when it was right."""

    def __init__(self, counter: Counter, settings: Settings) -> None:
        self._counter = counter
        window = timedelta(minutes=settings.login_window_minutes)
        self._account = Limit("login-account", settings.login_failures, window)
        self._address = Limit("login-address", settings.login_attempts_per_minute, timedelta(minutes=1))

    def attempt(self, account: str | None, address: str) -> Allowance:
        """Count an attempt as failed until `succeeded` says otherwise; what is left for the address.

        Raises Throttled. An API key is not counted by account: nobody guesses one, and anybody could lock a
        service out.
        """
        allowance = self._counter.take(self._address, customer(address))
        if account is not None:
            self._counter.take(self._account, account)
        return allowance

    def succeeded(self, account: str) -> None:
        self._counter.clear(self._account, account)

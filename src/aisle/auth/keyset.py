"""The published keys, as a verifier keeps them: fetched again when they are old or a token names an unknown one.

Fetching is bounded: whoever sends invented key ids causes at most one fetch in `MIN_INTERVAL`. While fetching fails,
the keys stay as they are: a token service that is away stops nobody who has a token.
"""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from http.client import HTTPException
from typing import Any

from jwt import PyJWK
from jwt.exceptions import PyJWTError

from aisle.clock import Clock, utc_now
from aisle.errors import ServiceMissing, UsageError
from aisle.logs import get_logger

MAX_AGE = timedelta(minutes=5)
MIN_INTERVAL = timedelta(seconds=10)
FIRST_INTERVAL = timedelta(seconds=0.2)  # while there is no key at all, nobody can be answered
# What a key may be, and how it then signs. Nothing symmetric: a public key is never a secret.
_ALGORITHMS = {("OKP", "Ed25519"): "EdDSA", ("EC", "P-256"): "ES256"}
_MAX_BYTES = 1 << 18


class Refused(Exception):
    """A token that is not to be believed."""


def fetch_keys(url: str, *, timeout: float = 2.0) -> Callable[[], Mapping[str, Any]]:
    """A function that gets the key set at `url`, within `timeout` seconds. Raises UsageError for another scheme."""
    if not url.startswith(("http://", "https://")):
        raise UsageError("the address of the key set is not http:// or https://")

    # The token service is a neighbour: proxies that the environment names are not asked.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def fetch() -> Mapping[str, Any]:
        with opener.open(url, timeout=timeout) as answer:
            found = json.loads(answer.read(_MAX_BYTES))
        if not isinstance(found, dict):
            raise ValueError("not a key set")  # noqa: TRY004  one kind of failure for all answers
        return found

    return fetch


class KeySet:
    """Safe to use from many threads: one of them fetches, the others go on with what there is."""

    def __init__(self, fetch: Callable[[], Mapping[str, Any]], *, clock: Clock = utc_now) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, PyJWK] = {}
        self._fetched: datetime | None = None
        self._tried: datetime | None = None
        self._lock = threading.Lock()

    def fetch(self) -> None:
        with self._lock:
            self._refresh()

    def is_due(self, kid: str) -> bool:
        """Whether the set is missing, old, or lacks `kid`, and was not asked for just now."""
        now = self._clock()
        pause = MIN_INTERVAL if self._fetched is not None else FIRST_INTERVAL
        if _is_within(now, self._tried, pause):
            return False
        return kid not in self._keys or not _is_within(now, self._fetched, MAX_AGE)

    def get(self, kid: str) -> PyJWK:
        """Raises Refused for a key that is not published, ServiceMissing when no set was ever to be had."""
        # Whoever has the key goes on with it while another thread fetches; the others need its answer.
        if self.is_due(kid) and self._lock.acquire(blocking=kid not in self._keys):
            try:
                if self.is_due(kid):
                    self._refresh()
            finally:
                self._lock.release()
        if self._fetched is None:
            raise ServiceMissing("the token service's keys are not to be had", hint="Is `aisle auth` running?")
        try:
            return self._keys[kid]
        except KeyError:
            raise Refused("signed with a key that is not published") from None

    def _refresh(self) -> None:
        try:
            found = self._fetch()
            self._keys = dict(_read(one) for one in found["keys"] if _is_ours(one))
            self._fetched = self._clock()
        except (OSError, HTTPException, LookupError, ValueError, TypeError, PyJWTError, ServiceMissing) as error:
            get_logger(__name__).warning("keys not fetched", reason=type(error).__name__)
        finally:
            self._tried = self._clock()


def _is_within(now: datetime, moment: datetime | None, span: timedelta) -> bool:
    """Whether that moment was so lately. One that is still to come was not: the clock was set back."""
    return moment is not None and timedelta(0) <= now - moment < span


def _is_ours(jwk: object) -> bool:
    if not isinstance(jwk, Mapping):
        return False
    kind = (str(jwk.get("kty")), str(jwk.get("crv")))
    return kind in _ALGORITHMS and jwk.get("alg") == _ALGORITHMS[kind]


def _read(jwk: Mapping[str, Any]) -> tuple[str, PyJWK]:
    return str(jwk["kid"]), PyJWK(dict(jwk), algorithm=jwk["alg"])

"""Around every request: an id, a line in the log, a number for Prometheus, limits for the body.

The line has the route and never the address as it was sent, whose query may hold a secret. Id and duration come back
as `X-Request-ID` and `X-Process-Time` (seconds).
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import structlog
from python_multipart.multipart import parse_options_header
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aisle.logs import get_logger
from aisle.web.draining import Draining
from aisle.web.metrics import REQUESTS
from aisle.web.problems import Problem, Refusal

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
NO_ROUTE = "none"
MAX_ENCODED_FORM = 768 << 10
"""Bytes of a form without files, a letter up to 12 of them: each costs a hundred times what one of a file does."""
_ENCODED, _MULTIPART = b"application/x-www-form-urlencoded", b"multipart/form-data"
_CHARSETS = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"latin-1", b"windows-1252"})
"""What a form names is looked for among all codecs of Python: some take quadratic time, others raise errors of their
own."""


class RequestMiddleware:
    """Outermost. `max_body` in bytes, others by path; whoever handles a request adds to its line with `note`.

    A middleware that answers before a route is found puts the route's path into the state.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body: int,
        by_path: Mapping[str, int] = MappingProxyType({}),
        draining: Draining | None = None,
    ) -> None:
        self.app = app
        self.max_body = max_body
        self.by_path = by_path
        self.draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        state: dict[str, Any] = scope.setdefault("state", {})
        notes: dict[str, object] = {}
        more_headers: list[tuple[bytes, bytes]] = []
        state.update(request_id=request_id, notes=notes, more_headers=more_headers)
        started, status, read = time.perf_counter(), 500, 0
        max_body = self.by_path.get(scope["path"], self.max_body)
        given_kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")  # as Starlette
        kind, options = parse_options_header(given_kind)
        if kind == _ENCODED:
            max_body = min(max_body, MAX_ENCODED_FORM)
        elif kind == _MULTIPART and options.get(b"charset", b"utf-8").lower() not in _CHARSETS:
            others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
            scope["headers"] = [*others, (b"content-type", _MULTIPART)]  # without a boundary: a form that is broken

        async def limited() -> Message:
            nonlocal read
            if _promised(headers) > max_body:  # not a byte of it is read
                raise Refusal(Problem.BODY_TOO_LARGE, limit=_bytes(max_body), headers={"Connection": "close"})
            message = await receive()
            read += len(message.get("body", b""))
            if read > max_body:
                raise Refusal(Problem.BODY_TOO_LARGE, limit=_bytes(max_body), headers={"Connection": "close"})
            return message

        async def labelled(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                took = f"{time.perf_counter() - started:.6f}".encode()
                message["headers"] += [(b"x-request-id", request_id.encode()), (b"x-process-time", took)]
                message["headers"] += more_headers
                if not any(name == b"x-content-type-options" for name, _ in message["headers"]):
                    message["headers"].append((b"x-content-type-options", b"nosniff"))
                if self.draining is not None and self.draining.has_begun:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, limited, labelled)
            finally:
                seconds = time.perf_counter() - started
                method = scope["method"] if scope["method"] in _METHODS else "other"
                route = state.get("route") or getattr(scope.get("route"), "path", NO_ROUTE)
                REQUESTS.labels(method, route, status).observe(seconds)
                get_logger(__name__).info(
                    "request", method=method, route=route, status=status, ms=round(seconds * 1000, 2), **notes
                )


def note(request: Any, **facts: object) -> None:
    """Add facts to the request's line in the log."""
    request.state.notes.update(facts)


def add_headers(request: Any, headers: Mapping[str, str]) -> None:
    """Add headers to the answer, whether it is what was asked for or a problem."""
    request.state.more_headers.extend((name.lower().encode(), value.encode()) for name, value in headers.items())


def _promised(headers: dict[bytes, bytes]) -> int:
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() and len(length) < 20 else 0


def _bytes(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"

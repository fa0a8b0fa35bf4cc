"""What the HTTP services have in common: problems, request ids, body limits, the client's address, serving.

An error is an RFC 9457 problem (`application/problem+json`) with the request's id. Each request is one line of the
log, with its path and never its query, and its id and duration come back as `X-Request-ID` and `X-Process-Time`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import signal
import socket
import time
import uuid
from collections.abc import Mapping
from http import HTTPStatus

import structlog
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aisle.errors import AisleError, UsageError
from aisle.logs import get_logger

PROBLEM = "application/problem+json"
STOP_SECONDS = 25
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class RequestMiddleware:
    """Outermost: gives each request an id and a line in the log, and stops reading a body that is too long."""

    def __init__(self, app: ASGIApp, *, max_body: int) -> None:
        self.app = app
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started, status, read = time.perf_counter(), 500, 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.max_body:
                raise HTTPException(413, f"the body has more than {self.max_body} bytes")
            return message

        async def labelled(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                took = f"{time.perf_counter() - started:.6f}".encode()
                message["headers"] += [(b"x-request-id", request_id.encode()), (b"x-process-time", took)]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, limited, labelled)
            finally:
                get_logger(__name__).info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    ms=round((time.perf_counter() - started) * 1000, 2),
                )


def problem(
    request: Request, status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: object
) -> Response:
    """An RFC 9457 answer; `more` are members of its own, such as OAuth's `error`."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "request_id": getattr(request.state, "request_id", ""),
        **more,
    }
    return JSONResponse(body, status_code=status, media_type=PROBLEM, headers=dict(headers or {}))


def answer_with_problems(app: FastAPI) -> None:
    """Turn every error into a problem. What a client sent is never repeated: it may hold a password."""

    @app.exception_handler(AisleError)
    async def on_error(request: Request, error: AisleError) -> Response:
        if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            # What failed inside is for the log; its wording may name hosts that are none of a client's business.
            get_logger(__name__).error("request failed", reason=str(error))
            return problem(request, error.http_status, "the service cannot answer now, try again later")
        return problem(request, error.http_status, str(error))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        return problem(request, error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return problem(request, 422, f"{where}: {first['msg']}" if where else str(first["msg"]))

    @app.exception_handler(Exception)
    async def on_unexpected(request: Request, error: Exception) -> Response:
        get_logger(__name__).error("request failed", reason=type(error).__name__, exc_info=error)
        return problem(request, 500, "something went wrong here, not in the request")


def answer_that_it_lives(app: FastAPI) -> None:
    """`/status` for people, in the original project's words, and `/livez` for the platform."""

    @app.get("/status")
    async def status() -> dict[str, str]:
        return {"status": "L'API fonctionne correctement"}

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}


def networks(text: str) -> tuple[Network, ...]:
    """The networks of a setting: addresses or CIDR ranges, separated by commas. Raises UsageError."""
    try:
        return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(f"TRUSTED_PROXIES: {error}", where="settings") from None


def client_address(request: Request, trusted: tuple[Network, ...]) -> str:
    """Who asks: the peer, or, where the peer is a trusted proxy, the last address that no trusted proxy wrote.

    `X-Forwarded-For` grows to the right, so everything left of the first untrusted address may be invented.
    """
    address = request.client.host if request.client else ""
    chain = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
    for hop in reversed([hop.strip() for hop in chain if hop.strip()]):
        if not _is_in(address, trusted) or _parsed(hop) is None:
            break
        address = hop
    return address


def serve_app(app: FastAPI, *, host: str, port: int, what: str, port_setting: str, **details: object) -> None:
    """Say that `what` is served where, with `details`, and serve until the process is told to stop.

    Raises UsageError when the address is taken.
    """
    try:
        listening = socket.create_server((host, port), backlog=2048)
    except OSError as error:
        hint = f"{port_setting} sets another port, 0 takes any free one."
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}", hint=hint) from None
    # proxy_headers would let uvicorn rewrite the peer's address before the settings can say whom to believe.
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = uvicorn.Server(config)
    with contextlib.suppress(ValueError):  # not the main thread: whoever started it stops it
        signal.signal(signal.SIGTERM, server.handle_exit)
    bound_host, bound_port = listening.getsockname()[:2]
    get_logger(__name__).info(what, url=f"http://{bound_host}:{bound_port}", **details)
    server.run(sockets=[listening])


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    # A socket that listens on IPv6 shows IPv4 peers as ::ffff:192.0.2.1.
    return getattr(parsed, "ipv4_mapped", None) or parsed


def _is_in(address: str, trusted: tuple[Network, ...]) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in trusted)

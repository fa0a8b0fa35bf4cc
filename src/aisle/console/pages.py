"""The console as an application of its own, to be mounted at `/console`: its pages, its refusals, its headers.

It has nothing of the API: no route of it is in the OpenAPI document, a bearer token opens none of its pages, and its
cookies are not sent to any other address.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Any, get_args
from urllib.parse import parse_qsl

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aisle.console import account, audit, bulk, classify, comparing, health, models, review
from aisle.console.asking import (
    HOME,
    LANGUAGE,
    ROOT,
    SIGN_IN,
    Console,
    SignInFirst,
    form_of,
    go_to,
    inside,
    page,
    part,
    set_cookie,
    sign_in_at,
    sign_in_first,
    speech_of,
    text_of,
    visit_of,
    visitor,
    wants_part,
)
from aisle.console.desk import Desk
from aisle.console.listings import Shelf
from aisle.console.pictures import Pictures
from aisle.console.refusing import in_words
from aisle.console.rendering import static_files
from aisle.console.sessions import Sessions
from aisle.errors import AisleError
from aisle.logs import get_logger
from aisle.web.address import networks
from aisle.web.answers import refusal_of, too_many_requests
from aisle.web.limits import Throttled
from aisle.web.problems import TITLES_IN_FRENCH, Language, Problem, Refusal
from aisle.web.routes import build_routes

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=()",
    "cache-control": "no-store",
    "vary": "Accept-Language, Cookie",
}
FOR_GOOD = "public, max-age=31536000, immutable"
A_YEAR = 365


def create_console(desk: Desk) -> FastAPI:
    """The application; the service whose pages these are is behind `desk`."""
    settings = desk.settings
    console = FastAPI(openapi_url=None, dependencies=[Depends(_name_the_route)], redirect_slashes=False)
    sessions = Sessions(
        desk.engine,
        desk.verifier,
        desk.tokens,
        idle=timedelta(hours=settings.console_idle_hours),
        clock=desk.clock,
    )
    console.state.console = Console(
        desk, sessions, networks(settings.trusted_proxies), Shelf(), Pictures(settings.data_path / "raw")
    )
    console.add_middleware(_Headers)
    _answer_with_pages(console)
    for subject in (account, classify, bulk, review, health, models, comparing, audit):
        console.include_router(subject.router)

    @console.get("/")
    async def home() -> Response:
        return go_to(HOME)

    @console.post("/language")
    async def language(request: Request) -> Response:
        """Another language from now on, whoever asks."""
        try:
            secret = (await visitor(request)).secret
        except SignInFirst:
            secret, _ = visit_of(request)
        form = await form_of(request, secret)
        answer = go_to(inside_or_sign_in(text_of(form, "next")))
        if (chosen := text_of(form, "language")) in get_args(Language):
            set_cookie(request, answer, LANGUAGE, chosen, days=A_YEAR)
        return answer

    @console.get("/static/{name}")
    async def static(name: str) -> Response:
        found = static_files().get(name)
        if found is None:
            raise Refusal(Problem.NOT_FOUND)
        return Response(found.content, media_type=found.media_type, headers={"cache-control": FOR_GOOD})

    build_routes(console)
    return console


def inside_or_sign_in(address: str) -> str:
    page, _, query = address.partition("?")
    if page != SIGN_IN:
        return inside(address)
    return sign_in_at(dict(parse_qsl(query)).get("next", ""))


async def _name_the_route(request: Request) -> None:
    """For the log and the metrics, which would else know the route without where it is mounted."""
    request.state.route = f"{ROOT}{request.scope['route'].path}"


class _Headers:
    """What every answer says, unless it says something else itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name for name, _ in message["headers"]}
                ours = ((name.encode(), value.encode()) for name, value in HEADERS.items())
                message["headers"] += [(name, value) for name, value in ours if name not in there]
            await send(message)

        await self.app(scope, receive, with_headers)


def _answer_with_pages(console: FastAPI) -> None:
    """Turn every error into a page, or into a part of one where a script asked for a part."""

    @console.exception_handler(SignInFirst)
    async def on_nobody(request: Request, _: SignInFirst) -> Response:
        return sign_in_first(request)

    @console.exception_handler(Refusal)
    async def on_refusal(request: Request, refusal: Refusal) -> Response:
        return _refused(request, refusal)

    @console.exception_handler(Throttled)
    async def on_throttled(request: Request, throttled: Throttled) -> Response:
        return _refused(request, too_many_requests(throttled))

    @console.exception_handler(AisleError)
    async def on_error(request: Request, error: AisleError) -> Response:
        return _refused(request, refusal_of(error))

    @console.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        is_there = error.status_code != HTTPStatus.NOT_FOUND
        return _refused(request, Refusal(Problem.WRONG_METHOD if is_there else Problem.NOT_FOUND))

    @console.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, _: RequestValidationError) -> Response:
        return _refused(request, Refusal(Problem.NOT_FOUND))

    @console.exception_handler(Exception)
    async def on_unexpected(request: Request, error: Exception) -> Response:
        get_logger(__name__).error("request failed", reason=type(error).__name__, exc_info=error)
        return _refused(request, Refusal(Problem.INTERNAL))


def _refused(request: Request, refusal: Refusal) -> Response:
    speech = speech_of(request)
    status = HTTPStatus(refusal.problem.status)
    shown: dict[str, Any] = {
        "title": TITLES_IN_FRENCH.get(status, status.phrase) if speech.language == "fr" else status.phrase,
        "detail": in_words(speech, refusal),
        "request_id": getattr(request.state, "request_id", ""),
    }
    if wants_part(request):
        answer: Response = part(request, "parts/problem.html", status=status, **shown)
    else:
        answer = page(request, "problem.html", status=status, **shown)
    answer.headers.update(refusal.headers or {})
    return answer

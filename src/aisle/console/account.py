"""Signing in and out at a browser; the token service decides, as it does for `POST /token`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response

from aisle.console.asking import (
    SESSION,
    SIGN_IN,
    AForm,
    SignInFirst,
    TheVisitor,
    console_of,
    cookie,
    drop_cookie,
    form_of,
    go_to,
    inside,
    page,
    set_cookie,
    sign_in_at,
    text_of,
    visit_of,
    visitor,
)
from aisle.web.problems import Problem, Refusal

_WHY = {HTTPStatus.UNAUTHORIZED: "sign_in.wrong", HTTPStatus.TOO_MANY_REQUESTS: "sign_in.wait"}

router = APIRouter()


@router.get("/sign-in")
async def ask(request: Request, next: str = "") -> Response:
    try:
        await visitor(request)
    except SignInFirst:
        return _form(request, next)
    return go_to(inside(next))


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """The address that the token service counts is the browser's."""
    secret, _ = visit_of(request)
    form = await form_of(request, secret)
    name, password, target = (text_of(form, field) for field in ("username", "password", "next"))
    console = console_of(request)
    credentials = {"grant_type": "password", "username": name, "password": password}
    answer = await console.desk.tokens.ask("/token", credentials, request)
    status = HTTPStatus(answer.status_code)
    if status is not HTTPStatus.OK:
        # Who leaves out a name or a password is told so by the form; anything else is not a way in either.
        status = status if status in _WHY else HTTPStatus.UNAUTHORIZED
        seconds = answer.headers.get("retry-after", "60")
        return _form(request, target, status=status, name=name, why=_WHY[status], seconds=seconds)
    who = await console.sessions.begin(answer.json())
    if before := cookie(request, SESSION):  # of another page of this browser, which loses its cookie now
        await console.sessions.end(before, request)
    signed_in = go_to(inside(target))
    set_cookie(request, signed_in, SESSION, who.secret)
    return signed_in


@router.post("/sign-out")
async def sign_out(request: Request, who: TheVisitor, _: AForm) -> Response:
    await console_of(request).sessions.end(who.secret, request)
    answer = go_to(SIGN_IN)
    drop_cookie(request, answer, SESSION)
    return answer


def _form(
    request: Request,
    target: str,
    *,
    status: HTTPStatus = HTTPStatus.OK,
    name: str = "",
    why: str = "",
    **details: Any,
) -> Response:
    if len(name) > 200:
        raise Refusal(Problem.FIELD_TOO_LONG, field="username", limit=200)
    return page(
        request,
        "sign_in.html",
        status=status,
        place="sign-in",
        here=sign_in_at(target),
        target=inside(target),
        name=name,
        why=why,
        details=details,
    )

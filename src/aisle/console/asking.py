"""What the pages share: who asks, in which language, with a form of ours; an answer as a page, or a part of one.

Something is changed only by a form that carries its token, sent from a page of ours. A script that wants a part of a
page instead of the whole says so by the header `X-Part`.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, get_args
from urllib.parse import quote

from fastapi import Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from aisle.console.desk import Desk
from aisle.console.listings import Shelf
from aisle.console.pictures import Pictures
from aisle.console.rendering import Speech, render
from aisle.console.sessions import Sessions, Visitor, csrf_of, new_secret
from aisle.store.users import Role
from aisle.web.address import Network, is_encrypted
from aisle.web.problems import LANGUAGES, Language, Problem, Refusal, language_of
from aisle.web.requests import note

ROOT = "/console"
HOME = f"{ROOT}/classify"
SIGN_IN = f"{ROOT}/sign-in"
SESSION, VISIT, LANGUAGE = "aisle-session", "aisle-visit", "aisle-language"
CSRF = "csrf"
PART = "x-part"
FORM_SECONDS = 20
MOST_FIELDS = 16
LARGEST_FIELD = 8 << 20
_LOOKING = ("GET", "HEAD")
REVIEWERS = (Role.REVIEWER, Role.ADMIN)
PLACES = (
    ("classify", tuple(Role)),
    ("bulk", tuple(Role)),
    ("review", REVIEWERS),
    ("health", REVIEWERS),
    ("models", REVIEWERS),
    ("audit", (Role.ADMIN,)),
)
"""The pages of the navigation, and for whom they are."""


class SignInFirst(Exception):
    """Whoever asks for this page has to sign in."""


@dataclass(frozen=True)
class Console:
    """What the pages of one application share."""

    desk: Desk
    sessions: Sessions
    trusted: tuple[Network, ...]
    shelf: Shelf
    pictures: Pictures


def console_of(request: Request) -> Console:
    console: Console = request.app.state.console
    return console


async def _desk(request: Request) -> Desk:
    return console_of(request).desk


TheDesk = Annotated[Desk, Depends(_desk)]


# Who asks


async def visitor(request: Request) -> Visitor:
    """Whoever is signed in. Raises SignInFirst."""
    secret = cookie(request, SESSION)
    found = await console_of(request).sessions.find(secret, request) if secret else None
    if found is None:
        raise SignInFirst
    note(request, user=found.name)
    request.state.visitor = found
    return found


TheVisitor = Annotated[Visitor, Depends(visitor)]


def only(*roles: Role) -> Callable[..., Awaitable[Visitor]]:
    """A dependency that lets in these roles only. Raises Refusal (403) for another."""

    async def allowed(who: TheVisitor) -> Visitor:
        if who.identity.role not in roles:
            needed = ", ".join(role.value for role in roles)
            raise Refusal(Problem.NOT_ALLOWED, role=who.identity.role.value, needed=needed)
        return who

    return allowed


AReviewer = Annotated[Visitor, Depends(only(*REVIEWERS))]
AnAdmin = Annotated[Visitor, Depends(only(Role.ADMIN))]


# Forms


async def form_of(request: Request, secret: str, *, seconds: float = FORM_SECONDS) -> FormData:
    """What a form of ours says, which may take so long to arrive. Raises Refusal for one that is not."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Refusal(Problem.FORM_NOT_OURS)
    try:
        async with asyncio.timeout(seconds):
            form = await request.form(max_fields=MOST_FIELDS, max_part_size=LARGEST_FIELD)
    except TimeoutError:
        raise Refusal(Problem.BODY_TOO_SLOW, seconds=seconds, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise Refusal(Problem.BAD_REQUEST, reason="the client has gone") from None
    except Refusal:
        raise
    except HTTPException:
        raise Refusal(Problem.BROKEN_FORM) from None
    if not secret or not hmac.compare_digest(text_of(form, CSRF).encode(), csrf_of(secret).encode()):
        raise Refusal(Problem.FORM_NOT_OURS)
    return form


def text_of(form: FormData, name: str) -> str:
    """A field; empty where it is not there. Raises Refusal for a file in its place."""
    value = form.get(name, "")
    if isinstance(value, UploadFile):
        raise Refusal(Problem.FIELD_INVALID, field=name, needed="text / du texte")
    return value


async def _a_form(request: Request, who: TheVisitor) -> FormData:
    return await form_of(request, who.secret)


AForm = Annotated[FormData, Depends(_a_form)]
"""A form of whoever is signed in."""


# Cookies


def cookie(request: Request, name: str) -> str:
    return request.cookies.get(_name(request, name), "")


def set_cookie(request: Request, response: Response, name: str, value: str, *, days: int | None = None) -> None:
    """For our pages alone, and out of reach of any script. Without `days` it ends with the browser."""
    response.set_cookie(
        _name(request, name),
        value,
        max_age=None if days is None else days * 86_400,
        path=ROOT,
        secure=_is_encrypted(request),
        httponly=True,
        samesite="lax",
    )


def drop_cookie(request: Request, response: Response, name: str) -> None:
    response.delete_cookie(
        _name(request, name), path=ROOT, secure=_is_encrypted(request), httponly=True, samesite="lax"
    )


def _name(request: Request, name: str) -> str:
    """A browser takes a name that begins so from an encrypted connection only."""
    return f"__Secure-{name}" if _is_encrypted(request) else name


def _is_encrypted(request: Request) -> bool:
    return is_encrypted(request, console_of(request).trusted)


def visit_of(request: Request) -> tuple[str, bool]:
    """The secret of a browser that nobody signed in at, for the forms before that; and whether it is new."""
    secret = cookie(request, VISIT)
    return (secret, False) if secret else (new_secret(), True)


# Answers


def speech_of(request: Request) -> Speech:
    chosen = cookie(request, LANGUAGE)
    for language in get_args(Language):
        if chosen == language:
            return Speech(language)
    return Speech(language_of(request.headers.get("accept-language", "")))


def wants_part(request: Request) -> bool:
    return PART in request.headers


def page(
    request: Request,
    template: str,
    *,
    status: int = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
    **context: Any,
) -> HTMLResponse:
    """A whole page: `place` of the navigation, who is signed in, and what the template wants besides; and `here`,
    where another language leads back to, if that is not the address that was asked for."""
    who: Visitor | None = getattr(request.state, "visitor", None)
    secret, is_new = (who.secret, False) if who is not None else visit_of(request)
    places = [] if who is None else [name for name, roles in PLACES if who.identity.role in roles]
    shown = {"place": "", "languages": LANGUAGES, **context}
    shown.setdefault("here", _here(request) if request.method in _LOOKING else f"{ROOT}/{shown['place']}")
    text = render(template, speech_of(request), who=who, places=places, csrf=csrf_of(secret), **shown)
    answer = HTMLResponse(text, status_code=int(status), headers=dict(headers or {}))
    if is_new:
        set_cookie(request, answer, VISIT, secret)
    return answer


def part(request: Request, template: str, *, status: int = HTTPStatus.OK, **context: Any) -> HTMLResponse:
    """A part of a page, for a script that puts it there."""
    who: Visitor | None = getattr(request.state, "visitor", None)
    csrf = "" if who is None else csrf_of(who.secret)
    return HTMLResponse(render(template, speech_of(request), who=who, csrf=csrf, **context), status_code=int(status))


def go_to(address: str) -> RedirectResponse:
    return RedirectResponse(address, status_code=int(HTTPStatus.SEE_OTHER))


def sign_in_first(request: Request) -> Response:
    """To the sign-in, and from there back to where a reader wanted to go; a script is told to."""
    if wants_part(request):
        return part(request, "parts/signed_out.html", status=HTTPStatus.UNAUTHORIZED)
    if request.method in _LOOKING:
        return go_to(sign_in_at(_here(request)))
    return go_to(SIGN_IN)


def sign_in_at(target: str) -> str:
    """The sign-in that leads to this page of ours."""
    return f"{SIGN_IN}?next={quote(inside(target), safe='')}"


def inside(address: str) -> str:
    """A page of ours to go to; the first one, instead of any other address."""
    is_ours = address.startswith(f"{ROOT}/") and "\\" not in address and address.isprintable()
    return address if is_ours and not address.startswith(SIGN_IN) else HOME


def _here(request: Request) -> str:
    query = f"?{request.url.query}" if request.url.query else ""
    return inside(f"{request.url.path}{query}")

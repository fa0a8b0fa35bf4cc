"""What anybody may ask: the welcome, whether the service is ready, and a token."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from aisle.auth.forms import A_TOKEN, SignIn, TokenAnswer
from aisle.console.asking import ROOT as CONSOLE
from aisle.service.parts import TheParts
from aisle.web.answers import answered, documented
from aisle.web.problems import Problem, Refusal

_SIGN_IN: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": SignIn.model_json_schema(),
                "example": {"username": "anne", "password": "…"},
            }
        },
    }
}
_SIGN_IN_PROBLEMS = (
    Problem.WRONG_CREDENTIALS, Problem.TOO_MANY_REQUESTS, Problem.FIELD_MISSING, Problem.FIELD_TOO_LONG,
    Problem.FIELD_INVALID, Problem.BODY_TOO_LARGE, Problem.SIGN_IN_UNAVAILABLE, Problem.UNAVAILABLE,
)  # fmt: skip
_WELCOME = {"message": "Bienvenue sur l'API de classification de produits"}
_TO_THE_CONSOLE: dict[int | str, dict[str, Any]] = {303: {"description": "See Other: a browser gets the console."}}
_READY = {"status": "ready", "model": "3f2a9c0d1b7e"}

router = APIRouter()


@router.get("/", tags=["platform"], response_model=None, responses=answered(_WELCOME) | _TO_THE_CONSOLE)
async def root(request: Request) -> dict[str, str] | Response:
    """The welcome; a browser gets the console."""
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(f"{CONSOLE}/", status_code=303, headers={"Vary": "Accept"})
    return _WELCOME


@router.get(CONSOLE, include_in_schema=False)
async def console() -> Response:
    return RedirectResponse(f"{CONSOLE}/", status_code=308)


@router.get("/readyz", tags=["platform"], responses=answered(_READY) | documented(Problem.NOT_READY))
async def readyz(parts: TheParts) -> dict[str, str]:
    """Whether requests should come here: not any more when the service is about to stop."""
    if parts.draining.has_begun:
        raise Refusal(Problem.NOT_READY, reason="stopping")
    return {"status": "ready", "model": parts.champion.predictor.version}


@router.post(
    "/token",
    tags=["token"],
    response_model=TokenAnswer,
    response_model_exclude_none=True,
    openapi_extra=_SIGN_IN,
    responses=answered(A_TOKEN) | documented(*_SIGN_IN_PROBLEMS),
)
async def token(request: Request, parts: TheParts) -> Response:
    """Sign in with the OAuth2 password form; the token service answers."""
    return await parts.handover.sign_in(request)

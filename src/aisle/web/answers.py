"""Errors become RFC 9457 answers (`application/problem+json`) with the request's id, in the client's language.

What a client sent is never repeated: it may hold a password.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from aisle.errors import AisleError
from aisle.logs import get_logger
from aisle.web.limits import Throttled
from aisle.web.problems import LANGUAGES, TITLES_IN_FRENCH, Language, Problem, Refusal, language_of

PROBLEM_JSON = "application/problem+json"
_BY_STATUS = {404: Problem.NOT_FOUND, 405: Problem.WRONG_METHOD}


def refusal_of(error: AisleError) -> Refusal:
    """What a client is told. What failed inside is for the log: its wording may name hosts of ours."""
    if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        get_logger(__name__).error("request failed", reason=str(error))
        return Refusal(Problem.UNAVAILABLE, headers={"Retry-After": "10"})
    return Refusal(Problem.UNUSABLE, reason=str(error))


def answer_with_problems(app: FastAPI) -> None:
    """Turn every error into a problem."""

    @app.exception_handler(Refusal)
    async def on_refusal(request: Request, refusal: Refusal) -> Response:
        return problem_answer(request, refusal)

    @app.exception_handler(Throttled)
    async def on_throttled(request: Request, throttled: Throttled) -> Response:
        return problem_answer(request, too_many_requests(throttled))

    @app.exception_handler(AisleError)
    async def on_error(request: Request, error: AisleError) -> Response:
        refusal = refusal_of(error)
        if refusal.problem is Problem.UNAVAILABLE:
            return problem_answer(request, refusal)
        return problem_answer(request, refusal, status=error.http_status)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        problem = _BY_STATUS.get(error.status_code, Problem.BAD_REQUEST)
        refusal = Refusal(problem, headers=error.headers, reason=error.detail)
        return problem_answer(request, refusal, status=error.status_code)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        return problem_answer(request, _about_field(error.errors()[0]))

    @app.exception_handler(Exception)
    async def on_unexpected(request: Request, error: Exception) -> Response:
        get_logger(__name__).error("request failed", reason=type(error).__name__, exc_info=error)
        return problem_answer(request, Refusal(Problem.INTERNAL))


def too_many_requests(throttled: Throttled, headers: Mapping[str, str] | None = None) -> Refusal:
    all_headers = {**throttled.headers(), **(headers or {})}
    return Refusal(Problem.TOO_MANY_REQUESTS, headers=all_headers, seconds=throttled.retry_after)


def problem_answer(request: Request, refusal: Refusal, *, status: int | None = None) -> Response:
    """The answer to a refused request; `status` where it is not the problem's own."""
    language = language_of(request.headers.get("accept-language", ""))
    request_id = getattr(request.state, "request_id", "")
    body = problem_body(refusal, language, status=status, request_id=request_id)
    headers = {"Content-Language": language, "Vary": "Accept-Language", **(refusal.headers or {})}
    return JSONResponse(body, status_code=body["status"], media_type=PROBLEM_JSON, headers=headers)


def problem_body(
    refusal: Refusal, language: Language, *, status: int | None = None, request_id: str = ""
) -> dict[str, Any]:
    status = status or refusal.problem.status
    english = HTTPStatus(status).phrase
    return {
        "type": refusal.problem.uri,
        "title": TITLES_IN_FRENCH.get(status, english) if language == "fr" else english,
        "status": status,
        "detail": refusal.problem.detail(language, refusal.details),
        "request_id": request_id,
        **refusal.members,
    }


def documented(*problems: Problem) -> dict[int | str, dict[str, Any]]:
    """What FastAPI's `responses` wants, with an example of each problem in each language."""
    answers: dict[int | str, dict[str, Any]] = {}
    for problem in problems:
        answer = answers.setdefault(
            problem.status,
            {
                "description": HTTPStatus(problem.status).phrase,
                "content": {PROBLEM_JSON: {"schema": PROBLEM_SCHEMA, "examples": {}}},
            },
        )
        refusal = Refusal(problem, **_EXAMPLES)
        for language in LANGUAGES:
            name = f"{problem.name.lower().replace('_', '-')} ({language})"
            body = problem_body(refusal, language, request_id="4f9b1c0c5a0d4b0d8f5b6f0a3a1d2c3e")
            answer["content"][PROBLEM_JSON]["examples"][name] = {"value": body}
    return answers


@dataclass(frozen=True, slots=True)
class Link:
    """A route that an answer leads to, and what of the answer it is asked with (runtime expressions of OpenAPI)."""

    method: str
    path: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, str] = field(default_factory=dict)

    def as_openapi(self) -> dict[str, Any]:
        path = self.path.replace("~", "~0").replace("/", "~1")
        asked = {"parameters": dict(self.parameters), "requestBody": dict(self.body)}
        return {"operationRef": f"#/paths/{path}/{self.method}", **{name: one for name, one in asked.items() if one}}


def answered(
    example: object,
    *,
    status: int = HTTPStatus.OK,
    media_type: str = "application/json",
    leads_to: Mapping[str, Link] | None = None,
) -> dict[int | str, dict[str, Any]]:
    """What FastAPI's `responses` wants, with an example of what is answered where nothing is refused."""
    answer: dict[str, Any] = {"content": {media_type: {"example": example}}}
    if leads_to:
        answer["links"] = {name: link.as_openapi() for name, link in leads_to.items()}
    return {int(status): answer}


PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": {"type": "string", "description": "Which problem it is, for programs."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "A sentence that helps, in French or English."},
        "request_id": {"type": "string", "description": "The id that the log knows the request by."},
    },
}
_EXAMPLES: Mapping[str, Any] = {
    "role": "client", "needed": "reviewer, admin", "seconds": 12, "reason": "…", "limit": 8, "field": "designation",
    "prediction_id": "0c8d…", "type": "99", "days": 7, "state": "running", "done": 2048, "rows": 100_000,
}  # fmt: skip


def _about_field(error: Mapping[str, Any]) -> Refusal:
    if error["type"] == "json_invalid":
        return Refusal(Problem.BROKEN_JSON)
    field = ".".join(str(part) for part in error["loc"][1:]) or "body"
    if error["type"] == "missing":
        return Refusal(Problem.FIELD_MISSING, field=field)
    if error["type"] == "string_too_long":
        return Refusal(Problem.FIELD_TOO_LONG, field=field, limit=error["ctx"]["max_length"])
    return Refusal(Problem.FIELD_INVALID, field=field, needed=error["msg"])

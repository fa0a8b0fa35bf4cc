"""Handing `POST /token` on to the token service, so that a client needs one address only.

The token service counts sign-ins by the client's address, which it believes us if we are one of its
`TRUSTED_PROXIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import httpx
from fastapi import Request, Response

from aisle.errors import UsageError
from aisle.logs import get_logger
from aisle.web.address import Network, client_address
from aisle.web.problems import Problem, Refusal

MAX_BODY = 16 << 10
SECONDS = 10.0
_THERE = ("content-type", "accept-language", "authorization")
_BACK = ("content-type", "content-language", "vary", "cache-control", "www-authenticate", "retry-after",
         "ratelimit", "ratelimit-policy")  # fmt: skip


class Handover:
    """`url`: the token service. Raises UsageError for another scheme than HTTP."""

    def __init__(self, url: str, trusted: tuple[Network, ...]) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError("AUTH_URL is not http:// or https://", where="settings")
        self._url = url
        self._trusted = trusted
        # The token service is a neighbour: proxies that the environment names are not asked.
        self._client = httpx.AsyncClient(timeout=SECONDS, trust_env=False, follow_redirects=False)

    async def sign_in(self, request: Request) -> Response:
        """Raises Refusal when the token service does not answer."""
        body = await request.body()
        if len(body) > MAX_BODY:
            raise Refusal(Problem.BODY_TOO_LARGE, limit=f"{MAX_BODY >> 10} KiB")
        headers = {name: request.headers[name] for name in _THERE if name in request.headers}
        answer = await self._post("/token", request, headers, content=body)
        back = {name: answer.headers[name] for name in _BACK if name in answer.headers}
        return Response(answer.content, answer.status_code, back)

    async def ask(self, path: str, form: Mapping[str, str], request: Request) -> httpx.Response:
        """What the token service answers to a form of ours, sent for the browser at `request`'s address.

        Raises Refusal where it does not answer, or is not well.
        """
        answer = await self._post(path, request, {}, data=form)
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _unavailable()
        return answer

    async def _post(self, path: str, request: Request, headers: dict[str, str], **body: Any) -> httpx.Response:
        headers["x-forwarded-for"] = client_address(request, self._trusted)
        headers["x-request-id"] = request.state.request_id
        try:
            return await self._client.post(f"{self._url}{path}", headers=headers, **body)
        except httpx.HTTPError as error:
            get_logger(__name__).error("the token service does not answer", reason=type(error).__name__)
            raise _unavailable() from None

    async def close(self) -> None:
        await self._client.aclose()


def _unavailable() -> Refusal:
    return Refusal(Problem.SIGN_IN_UNAVAILABLE, headers={"Retry-After": "5"})

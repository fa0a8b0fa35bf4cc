"""Handing `POST /token` on to the token service, so that a client needs one address only.

The token service counts sign-ins by the client's address, which it believes us if we are one of its
`TRUSTED_PROXIES`.
"""

from __future__ import annotations

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
        self._url = f"{url}/token"
        self._trusted = trusted
        # The token service is a neighbour: proxies that the environment names are not asked.
        self._client = httpx.AsyncClient(timeout=SECONDS, trust_env=False, follow_redirects=False)

    async def sign_in(self, request: Request) -> Response:
        """Raises Refusal when the token service does not answer."""
        body = await request.body()
        if len(body) > MAX_BODY:
            raise Refusal(Problem.BODY_TOO_LARGE, limit=f"{MAX_BODY >> 10} KiB")
        headers = {name: request.headers[name] for name in _THERE if name in request.headers}
        headers["x-forwarded-for"] = client_address(request, self._trusted)
        headers["x-request-id"] = request.state.request_id
        try:
            answer = await self._client.post(self._url, content=body, headers=headers)
        except httpx.HTTPError as error:
            get_logger(__name__).error("the token service does not answer", reason=type(error).__name__)
            raise Refusal(Problem.SIGN_IN_UNAVAILABLE, headers={"Retry-After": "5"}) from None
        back = {name: answer.headers[name] for name in _BACK if name in answer.headers}
        return Response(answer.content, answer.status_code, back)

    async def close(self) -> None:
        await self._client.aclose()

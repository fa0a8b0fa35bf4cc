"""Who asks: the bearer token of a request, verified with the published keys, and what its role allows.

    @app.get("/model")
    def model(who: SignedIn) -> ...                                  # whoever is signed in
    def correct(who: Annotated[Identity, Depends(needs(Role.ADMIN))])   # an administrator

The application's state holds the `verifier`. A token is taken from the header `Authorization` and nowhere else: an
address ends up in logs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import OAuth2PasswordBearer

from aisle.auth.keyset import Refused
from aisle.auth.tokens import Identity, Verifier
from aisle.logs import get_logger
from aisle.store.users import Role
from aisle.web.problems import Problem, Refusal
from aisle.web.requests import note

_BEARER = OAuth2PasswordBearer(tokenUrl="token", auto_error=False, description="`POST /token` gives a token.")


async def signed_in(request: Request, token: Annotated[str | None, Depends(_BEARER)]) -> Identity:
    """Raises Refusal (401) without a token that is good, ServiceMissing when no key was ever to be had."""
    verifier: Verifier = request.app.state.verifier
    if not token:
        raise not_signed_in()
    try:
        if verifier.would_fetch(token):  # asks the token service: not on the event loop
            identity = await run_in_threadpool(verifier.verify, token)
        else:
            identity = verifier.verify(token)
    except Refused as error:
        get_logger(__name__).warning("token refused", reason=str(error))
        raise not_signed_in('Bearer error="invalid_token"') from None
    note(request, user=identity.user)
    return identity


def needs(*roles: Role) -> Callable[..., Awaitable[Identity]]:
    """A dependency that lets in these roles only. Raises Refusal (403) for another."""

    async def allowed(identity: SignedIn) -> Identity:
        if identity.role not in roles:
            needed = ", ".join(role.value for role in roles)
            raise Refusal(Problem.NOT_ALLOWED, role=identity.role.value, needed=needed)
        return identity

    return allowed


def not_signed_in(challenge: str = "Bearer") -> Refusal:
    return Refusal(Problem.NOT_SIGNED_IN, headers={"WWW-Authenticate": challenge}, members={"error": "invalid_token"})


SignedIn = Annotated[Identity, Depends(signed_in)]

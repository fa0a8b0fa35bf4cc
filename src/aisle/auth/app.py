"""The token service over HTTP: sign in, renew, sign out, and the keys to verify with.

It holds no rule of its own: `login.py` lets in, `sessions.py` issues, `throttle.py` slows down.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Form, Request, Response
from fastapi.security import OAuth2PasswordBearer
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Engine

from aisle import __version__
from aisle.auth import login
from aisle.auth.clock import Clock, utc_now
from aisle.auth.keys import KeyRing
from aisle.auth.keyset import MAX_AGE
from aisle.auth.login import NotLetIn
from aisle.auth.passwords import warm_up
from aisle.auth.sessions import Pair, Sessions
from aisle.auth.throttle import Counter, LoginThrottle, Throttled
from aisle.auth.tokens import Identity, Refused, Signer, TokenPolicy, Verifier
from aisle.errors import InputError
from aisle.logs import get_logger
from aisle.settings import Settings
from aisle.store import users
from aisle.store.engine import reading
from aisle.web import RequestMiddleware, answer_that_it_lives, answer_with_problems, client_address, networks, problem

MAX_BODY = 16 << 10
_NO_STORE = "no-store"

Bearer = Annotated[str | None, Depends(OAuth2PasswordBearer(tokenUrl="token", auto_error=False))]


class SignIn(BaseModel):
    """OAuth2's password form; with `grant_type=client_credentials`, a service's API key as `client_secret`."""

    model_config = ConfigDict(extra="ignore")

    grant_type: Literal["password", "client_credentials"] = "password"
    username: str = Field("", max_length=200)
    password: str = Field("", max_length=1000, json_schema_extra={"format": "password"})
    client_secret: str = Field("", max_length=200, json_schema_extra={"format": "password"})


class Renewal(BaseModel):
    refresh_token: str = Field(min_length=1, max_length=200)


class Revocation(BaseModel):
    token: str = Field(min_length=1, max_length=5000, description="A refresh token: its session ends.")


class TokenAnswer(BaseModel):
    """`expires_in` is in seconds. A service gets no refresh token: it has its key."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    expires_in: int
    refresh_token: str | None = None


class Me(BaseModel):
    name: str
    kind: str
    role: str


def create_app(engine: Engine, settings: Settings, *, clock: Clock = utc_now) -> FastAPI:
    """The application over a database that is up to date and has a signing key; it closes the database."""
    policy = TokenPolicy.of(settings)
    passphrase = settings.signing_key_passphrase.get_secret_value()
    keyring = KeyRing(engine, passphrase=passphrase, clock=clock)
    refresh_lifetime = timedelta(days=settings.refresh_token_expire_days)
    sessions = Sessions(engine, Signer(keyring, policy, clock=clock), refresh_lifetime, clock)
    verifier = Verifier(keyring.jwks, policy, clock=clock)
    throttle = LoginThrottle(Counter(settings.redis_url, clock=clock), settings)
    proxies = networks(settings.trusted_proxies)
    warm_up()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.dispose()

    app = FastAPI(title="aisle: token service", version=__version__, lifespan=lifespan, redoc_url=None)
    app.add_middleware(RequestMiddleware, max_body=MAX_BODY)
    answer_with_problems(app)

    @app.exception_handler(NotLetIn)
    async def on_not_let_in(request: Request, _: NotLetIn) -> Response:
        get_logger(__name__).warning("not let in", path=request.url.path, address=client_address(request, proxies))
        return problem(
            request, 401, "wrong name, password, key or token",
            headers={"WWW-Authenticate": "Bearer", "Cache-Control": _NO_STORE}, error="invalid_grant",
        )  # fmt: skip

    @app.exception_handler(Refused)
    async def on_refused(request: Request, error: Refused) -> Response:
        get_logger(__name__).warning("token refused", reason=str(error))
        return problem(
            request, 401, "a valid bearer token is needed",
            headers={"WWW-Authenticate": 'Bearer error="invalid_token"'}, error="invalid_token",
        )  # fmt: skip

    @app.exception_handler(Throttled)
    async def on_throttled(request: Request, error: Throttled) -> Response:
        get_logger(__name__).warning("throttled", address=client_address(request, proxies), wait=error.retry_after)
        return problem(
            request, 429, f"too many attempts, try again in {error.retry_after} s",
            headers={"Retry-After": str(error.retry_after), "Cache-Control": _NO_STORE},
        )  # fmt: skip

    def answer(pair: Pair, response: Response) -> TokenAnswer:
        response.headers["Cache-Control"] = _NO_STORE
        seconds = int(policy.lifetime.total_seconds())
        return TokenAnswer(access_token=pair.access_token, expires_in=seconds, refresh_token=pair.refresh_token)

    @app.post("/token", response_model_exclude_none=True)
    def token(form: Annotated[SignIn, Form()], request: Request, response: Response) -> TokenAnswer:
        address = client_address(request, proxies)
        if form.grant_type == "client_credentials":
            _need(form.client_secret, "client_secret")
            throttle.attempt(None, address)
            return answer(sessions.access_only(login.with_api_key(engine, form.client_secret)), response)
        _need(form.username, "username")
        _need(form.password, "password")
        throttle.attempt(form.username, address)
        user = login.with_password(engine, form.username, form.password)
        throttle.succeeded(form.username)
        return answer(sessions.begin(user), response)

    @app.post("/token/refresh", response_model_exclude_none=True)
    def renew(form: Annotated[Renewal, Form()], response: Response) -> TokenAnswer:
        return answer(sessions.renew(form.refresh_token), response)

    @app.post("/token/revoke")
    def revoke(form: Annotated[Revocation, Form()]) -> dict[str, str]:
        sessions.end(form.token)
        return {"status": "revoked"}

    @app.get("/.well-known/jwks.json")
    def jwks(response: Response) -> dict[str, Any]:
        response.headers["Cache-Control"] = f"public, max-age={int(MAX_AGE.total_seconds())}"
        return keyring.jwks()

    @app.get("/me")
    def me(bearer: Bearer) -> Me:
        identity: Identity = verifier.verify(bearer or "")
        with reading(engine) as connection:
            user = users.find(connection, identity.user)
        if user is None or not user.is_active:
            raise Refused("the account is disabled")
        return Me(name=user.name, kind=user.kind, role=user.role)

    answer_that_it_lives(app)

    @app.get("/readyz")
    def readyz() -> dict[str, str]:
        keyring.current()  # the database answers, and there is a key that signs
        return {"status": "ready"}

    return app


def _need(value: str, field: str) -> None:
    if not value:
        raise InputError(f"{field} is missing")

"""The token service over HTTP: sign in, renew, sign out, and the keys to verify with.

It holds no rule of its own: `login.py` lets in, `sessions.py` issues, `throttle.py` slows down.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated, Any

import prometheus_client
from fastapi import FastAPI, Form, Request, Response
from sqlalchemy import Engine

from aisle import __version__
from aisle.auth import login
from aisle.auth.access import SignedIn, not_signed_in
from aisle.auth.forms import A_TOKEN, Me, Renewal, Revocation, SignIn, TokenAnswer, basic_credentials
from aisle.auth.keys import KeyRing
from aisle.auth.keyset import MAX_AGE
from aisle.auth.login import NotLetIn, ServiceNotLetIn
from aisle.auth.passwords import warm_up
from aisle.auth.sessions import Pair, Sessions
from aisle.auth.throttle import LoginThrottle
from aisle.auth.tokens import Signer, TokenPolicy, Verifier
from aisle.clock import Clock, utc_now
from aisle.settings import Settings
from aisle.store import users
from aisle.store.engine import reading
from aisle.web.address import Network, client_address, networks
from aisle.web.answers import (
    Link,
    answer_with_problems,
    answered,
    documented,
    problem_answer,
    too_many_requests,
)
from aisle.web.draining import Draining
from aisle.web.limits import Counter, Throttled
from aisle.web.metrics import LIMITS_DEGRADED, from_zero
from aisle.web.platform import answer_the_platform
from aisle.web.problems import Problem, Refusal
from aisle.web.requests import RequestMiddleware, add_headers, note

MAX_BODY = 16 << 10
_NO_STORE = "no-store"
_FORM_PROBLEMS = (Problem.FIELD_MISSING, Problem.FIELD_TOO_LONG, Problem.FIELD_INVALID, Problem.BODY_TOO_LARGE)
_RENEWABLE = "$response.body#/refresh_token"
_LEADS_TO = {
    "renew": Link("post", "/token/refresh", body={"refresh_token": _RENEWABLE}),
    "revoke": Link("post", "/token/revoke", body={"token": _RENEWABLE}),
}
_SIGN_IN_ANSWERS = answered(A_TOKEN, leads_to=_LEADS_TO) | documented(
    Problem.WRONG_CREDENTIALS, Problem.TOO_MANY_REQUESTS, *_FORM_PROBLEMS, Problem.UNAVAILABLE
)
_RENEWAL_ANSWERS = answered(A_TOKEN) | documented(Problem.WRONG_CREDENTIALS, *_FORM_PROBLEMS, Problem.UNAVAILABLE)
_REVOKED = {"status": "revoked"}
_REVOCATION_ANSWERS = answered(_REVOKED) | documented(*_FORM_PROBLEMS, Problem.UNAVAILABLE)
_ME_ANSWERS = answered({"name": "anne", "kind": "person", "role": "reviewer"}) | documented(
    Problem.NOT_SIGNED_IN, Problem.UNAVAILABLE
)
_KEYS = {"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "3f2a9c0d", "x": "11qYAY…"}]}
_READY = {"status": "ready"}
_READY_ANSWERS = answered(_READY) | documented(Problem.NOT_READY, Problem.UNAVAILABLE)
SIGN_INS = from_zero(
    prometheus_client.Counter("aisle_sign_ins", "Sign-ins and renewals, by how they ended.", ["outcome"]),
    *("let_in", "refused", "throttled"),
)


def create_app(engine: Engine, settings: Settings, *, clock: Clock = utc_now) -> FastAPI:
    """The application over a database that is up to date and has a signing key; it closes the database."""
    policy = TokenPolicy.of(settings)
    passphrase = settings.signing_key_passphrase.get_secret_value()
    keyring = KeyRing(engine, passphrase=passphrase, clock=clock)
    refresh_lifetime = timedelta(days=settings.refresh_token_expire_days)
    sessions = Sessions(engine, Signer(keyring, policy, clock=clock), refresh_lifetime, clock)
    verifier = Verifier(keyring.jwks, policy, clock=clock)
    counter = Counter(settings.redis_url, clock=clock)
    throttle = LoginThrottle(counter, settings)
    proxies = networks(settings.trusted_proxies)
    draining = Draining(settings.drain_seconds)
    warm_up()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with draining.on_sigterm():
            yield
        engine.dispose()

    app = FastAPI(title="aisle: token service", version=__version__, lifespan=lifespan, redoc_url=None)
    app.state.verifier = verifier
    app.add_middleware(RequestMiddleware, max_body=MAX_BODY, draining=draining)
    answer_with_problems(app)

    _answer_who_is_not_let_in(app, proxies)

    def slowed_down(account: str | None, request: Request) -> None:
        allowance = throttle.attempt(account, client_address(request, proxies))
        LIMITS_DEGRADED.set(counter.is_degraded)
        add_headers(request, allowance.headers())

    def answer(pair: Pair, response: Response) -> TokenAnswer:
        SIGN_INS.labels("let_in").inc()
        response.headers["Cache-Control"] = _NO_STORE
        seconds = int(policy.lifetime.total_seconds())
        return TokenAnswer(access_token=pair.access_token, expires_in=seconds, refresh_token=pair.refresh_token)

    @app.post("/token", response_model_exclude_none=True, responses=_SIGN_IN_ANSWERS)
    def token(form: Annotated[SignIn, Form()], request: Request, response: Response) -> TokenAnswer:
        if form.grant_type == "client_credentials":
            name, key = _service(request, form)
            slowed_down(None, request)
            return answer(sessions.access_only(login.with_api_key(engine, key, name)), response)
        _need(form.username, "username")
        _need(form.password, "password")
        slowed_down(form.username, request)
        user = login.with_password(engine, form.username, form.password)
        throttle.succeeded(form.username)
        return answer(sessions.begin(user), response)

    @app.post("/token/refresh", response_model_exclude_none=True, responses=_RENEWAL_ANSWERS)
    def renew(form: Annotated[Renewal, Form()], response: Response) -> TokenAnswer:
        return answer(sessions.renew(form.refresh_token), response)

    @app.post("/token/revoke", responses=_REVOCATION_ANSWERS)
    def revoke(form: Annotated[Revocation, Form()]) -> dict[str, str]:
        sessions.end(form.token)
        return _REVOKED

    @app.get("/me", responses=_ME_ANSWERS)
    def me(identity: SignedIn) -> Me:
        with reading(engine) as connection:
            user = users.find(connection, identity.user)
        if user is None or not user.is_active:
            raise not_signed_in()
        return Me(name=user.name, kind=user.kind, role=user.role)

    answer_the_platform(app)

    _answer_about_keys(app, keyring, draining)
    return app


def _answer_about_keys(app: FastAPI, keyring: KeyRing, draining: Draining) -> None:
    @app.get("/.well-known/jwks.json", responses=answered(_KEYS))
    def jwks(response: Response) -> dict[str, Any]:
        response.headers["Cache-Control"] = f"public, max-age={int(MAX_AGE.total_seconds())}"
        return keyring.jwks()

    @app.get("/readyz", tags=["platform"], responses=_READY_ANSWERS)
    def readyz() -> dict[str, str]:
        if draining.has_begun:
            raise Refusal(Problem.NOT_READY, reason="stopping")
        keyring.current()  # the database answers, and there is a key that signs
        return _READY


def _answer_who_is_not_let_in(app: FastAPI, proxies: tuple[Network, ...]) -> None:
    @app.exception_handler(NotLetIn)
    async def on_not_let_in(request: Request, error: NotLetIn) -> Response:
        SIGN_INS.labels("refused").inc()
        note(request, address=client_address(request, proxies))
        is_service = isinstance(error, ServiceNotLetIn)
        asked = 'Basic realm="aisle"' if is_service and _basic(request) is not None else "Bearer"
        headers = {"WWW-Authenticate": asked, "Cache-Control": _NO_STORE}
        members = {"error": "invalid_client" if is_service else "invalid_grant"}  # RFC 6749, 5.2
        return problem_answer(request, Refusal(Problem.WRONG_CREDENTIALS, headers=headers, members=members))

    @app.exception_handler(Throttled)
    async def on_throttled(request: Request, throttled: Throttled) -> Response:
        SIGN_INS.labels("throttled").inc()
        note(request, address=client_address(request, proxies))
        return problem_answer(request, too_many_requests(throttled, {"Cache-Control": _NO_STORE}))


def _service(request: Request, form: SignIn) -> tuple[str, str]:
    """The name, which may be empty, and the API key that a service signs in with."""
    found = _basic(request)
    if found is None:
        _need(form.client_secret, "client_secret")
    return found or (form.client_id, form.client_secret)


def _basic(request: Request) -> tuple[str, str] | None:
    return basic_credentials(request.headers.get("authorization", ""))


def _need(value: str, field: str) -> None:
    if not value:
        raise Refusal(Problem.FIELD_MISSING, field=field)

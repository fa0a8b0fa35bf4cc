"""The token service over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable
from urllib.parse import quote_plus

import httpx2
import jwt
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from tests.auth.conftest import PASSWORD, SetClock
from tests.web.routes import routes_of

from aisle.auth.accounts import Accounts
from aisle.auth.app import create_app
from aisle.auth.keys import KeyPolicy, ensure_key, rotate
from aisle.auth.tokens import TokenPolicy, Verifier
from aisle.settings import Settings
from aisle.store import audit
from aisle.store.engine import reading
from aisle.store.users import Role

Answer = httpx2.Response


def sign_in(client: TestClient, name: str = "bob", password: str = PASSWORD, **headers: str) -> Answer:
    return client.post("/token", data={"username": name, "password": password}, headers=headers)


def renew(client: TestClient, token: str) -> Answer:
    return client.post("/token/refresh", data={"refresh_token": token})


def me(client: TestClient, token: str) -> Answer:
    return client.get("/me", headers={"Authorization": f"Bearer {token}"})


def assert_problem(answer: Answer, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["title"]
    assert body["detail"]


def test_a_sign_in_gives_a_token_that_anybody_verifies_with_the_published_keys(
    client: TestClient, clock: SetClock, settings: Settings
) -> None:
    answer = sign_in(client)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert (body["token_type"], body["expires_in"]) == ("bearer", 900)
    fetch: Callable[[], dict[str, object]] = client.get("/.well-known/jwks.json").json
    identity = Verifier(fetch, TokenPolicy.of(settings), clock=clock).verify(body["access_token"])
    assert (identity.user, identity.role) == ("bob", Role.CLIENT)


def test_me_says_who_one_is(client: TestClient) -> None:
    answer = me(client, sign_in(client, "anne").json()["access_token"])
    assert answer.json() == {"name": "anne", "kind": "person", "role": "admin"}


def test_every_refused_sign_in_looks_the_same(client: TestClient, accounts: Accounts) -> None:
    accounts.add_person("gone", Role.CLIENT, PASSWORD)
    accounts.disable("gone")
    accounts.add_service("robot", Role.CLIENT)
    answers = [
        sign_in(client, name, password)
        for name, password in [
            ("bob", "wrong"), ("nobody", PASSWORD), ("gone", PASSWORD), ("robot", "x"), ("é\x00'--", "x")
        ]
    ]  # fmt: skip
    for answer in answers:
        assert_problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    bodies = [{name: value for name, value in answer.json().items() if name != "request_id"} for answer in answers]
    assert all(body == bodies[0] for body in bodies)


@pytest.mark.parametrize("name", ["bob", "nobody"])
def test_after_ten_failures_an_account_waits_whether_it_exists_or_not(
    client: TestClient, name: str, clock: SetClock
) -> None:
    for _ in range(10):
        assert_problem(sign_in(client, name, "wrong"), 401)
    answer = sign_in(client, name, PASSWORD)
    assert_problem(answer, 429)
    clock.advance(seconds=int(answer.headers["retry-after"]))
    assert sign_in(client, name, PASSWORD).status_code == (200 if name == "bob" else 401)


def test_a_right_password_resets_the_failures(client: TestClient) -> None:
    for _ in range(2):
        for _ in range(9):
            assert_problem(sign_in(client, password="wrong"), 401)
        assert sign_in(client).status_code == 200


def test_a_forwarded_address_counts_only_from_a_trusted_proxy(
    engine: Engine, accounts: Accounts, clock: SetClock
) -> None:
    ensure_key(engine, KeyPolicy.of(Settings()), clock=clock)

    def statuses(trusted: str) -> list[int]:
        settings = Settings(trusted_proxies=trusted, login_attempts_per_minute=1)
        client = TestClient(create_app(engine, settings, clock=clock), client=("10.0.0.1", 5000))
        return [sign_in(client, **{"X-Forwarded-For": f"198.51.100.{last}"}).status_code for last in (1, 2)]

    assert statuses("") == [200, 429]  # the peer is who counts
    assert statuses("192.0.2.0/24") == [200, 429]
    assert statuses("10.0.0.0/8") == [200, 200]  # two clients behind our proxy


def test_a_refresh_token_gives_the_next_pair_once(client: TestClient) -> None:
    first = sign_in(client).json()
    second = renew(client, first["refresh_token"])
    assert second.status_code == 200
    assert second.json()["refresh_token"] != first["refresh_token"]
    assert me(client, second.json()["access_token"]).status_code == 200


def test_a_refresh_token_that_comes_twice_ends_its_session_and_no_other(client: TestClient, engine: Engine) -> None:
    first, other = sign_in(client).json(), sign_in(client).json()
    second = renew(client, first["refresh_token"]).json()
    assert_problem(renew(client, first["refresh_token"]), 401)
    assert_problem(renew(client, second["refresh_token"]), 401)
    assert renew(client, other["refresh_token"]).status_code == 200
    with reading(engine) as connection:
        reuse = [entry for entry in audit.entries(connection) if entry.what == "session.reuse"]
    assert [entry.who for entry in reuse] == ["bob"]


def test_a_session_ends_when_its_time_is_over_however_often_it_was_renewed(
    client: TestClient, clock: SetClock
) -> None:
    token = sign_in(client).json()["refresh_token"]
    for _ in range(13):
        clock.advance(days=1)
        token = renew(client, token).json()["refresh_token"]
    clock.advance(days=1)
    assert_problem(renew(client, token), 401)


def test_a_revoked_session_is_over_and_what_is_no_token_is_no_error(client: TestClient) -> None:
    first = sign_in(client).json()["refresh_token"]
    second = renew(client, first).json()["refresh_token"]
    for token in (second, "nonsense"):
        assert client.post("/token/revoke", data={"token": token}).status_code == 200
    assert_problem(renew(client, second), 401)


def test_a_disabled_account_is_out_at_once(client: TestClient, accounts: Accounts) -> None:
    pair = sign_in(client).json()
    accounts.disable("bob")
    assert_problem(me(client, pair["access_token"]), 401)
    assert_problem(renew(client, pair["refresh_token"]), 401)
    assert_problem(sign_in(client), 401)


def test_a_new_role_is_in_the_next_token(client: TestClient, accounts: Accounts) -> None:
    pair = sign_in(client).json()
    accounts.set_role("bob", Role.REVIEWER)
    token = renew(client, pair["refresh_token"]).json()["access_token"]
    assert jwt.decode(token, options={"verify_signature": False})["role"] == "reviewer"


def test_a_service_exchanges_its_key_for_a_token_until_the_key_is_revoked(
    client: TestClient, accounts: Accounts
) -> None:
    _, key = accounts.add_service("robot", Role.CLIENT)

    def exchange(secret: str) -> Answer:
        return client.post("/token", data={"grant_type": "client_credentials", "client_secret": secret})

    body = exchange(key).json()
    assert "refresh_token" not in body
    assert me(client, body["access_token"]).json() == {"name": "robot", "kind": "service", "role": "client"}
    for wrong in (key[:-1], key + "x", key[:14], "x", "aisle_\x00", key.upper()):
        assert_problem(exchange(wrong), 401)
    accounts.revoke_api_key("robot", key[:14])
    assert_problem(exchange(key), 401)


def by_basic(client: TestClient, name: str, secret: str) -> Answer:
    return client.post(
        "/token", data={"grant_type": "client_credentials"}, auth=(quote_plus(name), quote_plus(secret))
    )


def test_a_service_may_say_who_it_is_by_http_basic(client: TestClient, accounts: Accounts) -> None:
    _, key = accounts.add_service("robot+1@shop", Role.REVIEWER)
    body = by_basic(client, "robot+1@shop", key).json()
    assert "refresh_token" not in body
    assert me(client, body["access_token"]).json() == {"name": "robot+1@shop", "kind": "service", "role": "reviewer"}


def test_a_key_is_good_for_the_service_that_it_was_given_alone(client: TestClient, accounts: Accounts) -> None:
    _, key = accounts.add_service("robot", Role.CLIENT)
    accounts.add_service("other", Role.ADMIN)
    form = {"grant_type": "client_credentials", "client_secret": key}
    assert_problem(by_basic(client, "other", key), 401)
    assert_problem(client.post("/token", data=form | {"client_id": "other"}), 401)
    assert client.post("/token", data=form | {"client_id": "robot"}).status_code == 200


@pytest.mark.parametrize("sent", ["Basic", "Basic !", "Basic cm9ib3Q=", "Basic /////w==", "basic cm9ib3Q6eA=="])
def test_what_is_no_service_s_name_and_key_is_refused_in_the_way_it_asked(client: TestClient, sent: str) -> None:
    form = {"grant_type": "client_credentials"}
    answer = client.post("/token", data=form, headers={"Authorization": sent})
    assert_problem(answer, 401)
    assert answer.headers["www-authenticate"] == 'Basic realm="aisle"'
    assert answer.json()["error"] == "invalid_client"


PROTECTED = [("GET", "/me")]
FORMS = ["/token", "/token/refresh", "/token/revoke"]
OPEN = [
    "/status", "/livez", "/readyz", "/metrics", "/.well-known/jwks.json",
    "/openapi.json", "/docs", "/docs/oauth2-redirect",
]  # fmt: skip


def test_each_route_is_asked_here_with_and_without_a_token(client: TestClient) -> None:
    assert isinstance(client.app, FastAPI)
    routes = {*PROTECTED, *(("POST", path) for path in FORMS), *(("GET", path) for path in OPEN)}
    assert routes_of(client.app) == routes


@pytest.mark.parametrize("path", OPEN)
def test_what_the_platform_asks_needs_no_token(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", FORMS)
def test_a_form_needs_no_token_but_what_it_asks_for(client: TestClient, path: str) -> None:
    assert_problem(client.post(path), 422)


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Basic YTpi", "Bearer a.b.c"])
def test_without_a_good_token_nothing_is_answered(client: TestClient, method: str, path: str, header: str) -> None:
    answer = client.request(method, path, headers={"Authorization": header})
    assert_problem(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_a_token_in_the_address_is_not_looked_at(client: TestClient, method: str, path: str) -> None:
    token = sign_in(client).json()["access_token"]
    for name in ("token", "access_token", "Authorization"):
        assert_problem(client.request(method, path, params={name: token}), 401)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_each_role_may_do_this(client: TestClient, accounts: Accounts, role: Role, method: str, path: str) -> None:
    accounts.add_person("carl", role, PASSWORD)
    token = sign_in(client, "carl").json()["access_token"]
    answer = client.request(method, path, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text


def test_a_token_outlives_a_rotation(client: TestClient, engine: Engine, settings: Settings, clock: SetClock) -> None:
    rotate(engine, KeyPolicy.of(settings), who="test", clock=clock)
    clock.advance(minutes=9, seconds=59)
    token = sign_in(client).json()["access_token"]
    clock.advance(minutes=14)
    assert me(client, token).status_code == 200


@pytest.mark.parametrize(
    "form",
    [{}, {"username": "bob"}, {"password": "x"}, {"username": "b" * 201, "password": "x"},
     {"grant_type": "client_credentials"}, {"grant_type": "magic", "username": "bob", "password": "s3cret-words"}],
)  # fmt: skip
def test_a_form_that_lacks_something_is_the_clients_mistake_and_is_not_repeated(
    client: TestClient, form: dict[str, str]
) -> None:
    answer = client.post("/token", data=form)
    assert_problem(answer, 422)
    assert "s3cret-words" not in answer.text


def test_a_body_that_is_too_long_is_not_read(client: TestClient) -> None:
    assert_problem(sign_in(client, password="x" * 20_000), 413)


def test_what_is_not_there_is_a_problem_too(client: TestClient) -> None:
    assert_problem(client.get("/nowhere"), 404)
    assert_problem(client.get("/token"), 405)


def test_an_id_from_outside_is_kept_if_it_is_sane(client: TestClient) -> None:
    assert client.get("/status", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert client.get("/status", headers={"X-Request-ID": "a b\tc"}).headers["x-request-id"] != "a b\tc"


def test_the_platforms_routes_answer(client: TestClient) -> None:
    assert client.get("/status").json() == {"status": "L'API fonctionne correctement"}
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200


def test_without_a_signing_key_it_is_alive_and_not_ready(engine: Engine, settings: Settings) -> None:
    client = TestClient(create_app(engine, settings), raise_server_exceptions=False)
    assert client.get("/livez").status_code == 200
    assert_problem(client.get("/readyz"), 503)


def test_of_two_that_renew_at_the_same_moment_one_gets_a_pair(client: TestClient) -> None:
    token = sign_in(client).json()["refresh_token"]
    statuses: list[int] = []
    start = threading.Barrier(2)

    def race() -> None:
        start.wait()
        statuses.append(renew(client, token).status_code)

    threads = [threading.Thread(target=race) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 401]

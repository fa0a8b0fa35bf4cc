"""Who may ask the prediction service, how often, and what the platform may."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from fastapi import FastAPI
from tests.service.conftest import Service, Starter
from tests.web.routes import routes_of

from aisle.store.users import Role

GOOD: dict[tuple[str, str], tuple[dict[str, Any], int]] = {
    ("POST", "/predict"): ({"json": {"designation": "piscine"}}, 200),
    ("POST", "/predict_code"): ({"json": {"designation": "piscine"}}, 200),
    ("GET", "/model"): ({}, 200),
    ("POST", "/feedback"): ({"json": {"prediction_id": "0" * 32, "type": "2583"}}, 404),
    ("POST", "/explain"): ({"json": {"designation": "piscine"}}, 200),
    ("POST", "/alerts"): ({"json": {"alerts": []}}, 202),
    ("POST", "/batches"): ({"files": {"table": ("a.csv", b"designation\npiscine\n")}}, 202),
    ("GET", "/batches"): ({}, 200),
    ("GET", "/batches/{batch_id}"): ({}, 404),
    ("GET", "/batches/{batch_id}/results"): ({}, 404),
    ("POST", "/batches/{batch_id}/cancel"): ({}, 404),
    ("DELETE", "/batches/{batch_id}"): ({}, 404),
}
"""What a signed-in user asks for, and the status of the answer."""
NOT_FOR_CLIENTS = {("POST", "/alerts")}
PROTECTED = list(GOOD)
SIGN_IN = ("POST", "/token")
CONSOLE = {("GET", "/console"), ("any", "/console")}
"""An application of its own, which tests/console asks."""
OPEN = ["/", "/status", "/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/oauth2-redirect"]


def address(path: str) -> str:
    """Of nobody's batch, where it is of one."""
    return path.replace("{batch_id}", "0" * 32)


def test_each_route_is_asked_here_with_and_without_a_token(service: Service) -> None:
    assert isinstance(service.client.app, FastAPI)
    assert routes_of(service.client.app) == {*PROTECTED, SIGN_IN, *CONSOLE, *(("GET", path) for path in OPEN)}


def test_the_originals_routes_say_what_they_said(service: Service) -> None:
    assert service.client.get("/status").json() == {"status": "L'API fonctionne correctement"}
    assert service.client.get("/").json()["message"].startswith("Bienvenue")


@pytest.mark.parametrize("path", OPEN)
def test_what_the_platform_asks_needs_no_token(service: Service, path: str) -> None:
    assert service.client.get(path).status_code == 200


@pytest.mark.parametrize("form", [{}, {"username": "anne", "password": "x"}])
def test_who_signs_in_needs_no_token_and_is_handed_on(service: Service, form: dict[str, str]) -> None:
    method, path = SIGN_IN
    answer = service.client.request(method, path, data=form)
    assert answer.json()["type"] == "urn:aisle:problem:sign-in-unavailable"  # no token service runs beside this one


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize("header", [None, "Bearer", "Bearer ", "Bearer x.y.z", "Basic YTpi", "Bearer " + "x" * 9000])
def test_without_a_good_token_nothing_is_answered(
    service: Service, method: str, path: str, header: str | None
) -> None:
    response = service.client.request(method, path, headers={"Authorization": header} if header else {})
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert response.json()["type"] == "urn:aisle:problem:not-signed-in"


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_a_token_in_the_address_is_not_looked_at(service: Service, method: str, path: str) -> None:
    for name in ("token", "access_token"):
        assert service.client.request(method, path, params={name: service.token()}).status_code == 401


@pytest.mark.parametrize(("method", "path"), [*PROTECTED, SIGN_IN, *(("GET", path) for path in OPEN)])
@pytest.mark.parametrize("headers", [{}, {"Access-Control-Request-Method": "POST"}])
def test_no_page_of_another_site_reads_an_answer_and_none_is_taken_for_another_kind(
    service: Service, headers: dict[str, str], method: str, path: str
) -> None:
    asked = "OPTIONS" if headers else method
    for origin in ("https://shop.example", "null"):
        answer = service.client.request(asked, address(path), headers={**headers, "Origin": origin})
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert "server" not in answer.headers
        assert "set-cookie" not in answer.headers


def test_a_token_for_somebody_else_or_of_somebody_elses_making_is_refused(service: Service) -> None:
    good = service.token(Role.ADMIN)
    header, claims = jwt.get_unverified_header(good), jwt.decode(good, options={"verify_signature": False})
    forged = jwt.encode(claims, "secret" * 8, algorithm="HS256", headers={"kid": header["kid"], "typ": header["typ"]})
    unsigned = jwt.encode(claims, "", algorithm="none", headers={"kid": header["kid"], "typ": header["typ"]})
    for token in (forged, unsigned, good[:-8] + "AAAAAAAA"):
        response = service.client.get("/model", headers={"Authorization": f"Bearer {token}"})
        assert response.status_code == 401


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_each_role_may_do_this_and_no_more(service: Service, role: Role, method: str, path: str) -> None:
    request, status = GOOD[method, path]
    if role is Role.CLIENT and (method, path) in NOT_FOR_CLIENTS:
        status = 403
    response = service.client.request(method, address(path), headers=service.headers(role), **request)
    assert response.status_code == status, response.text


def test_a_user_may_ask_ten_times_a_minute_and_is_told_what_is_left(start_service: Starter) -> None:
    service = start_service(rate_limits="predict=10/minute")
    for left in range(9, -1, -1):
        answer = service.post("/predict", name="anne", json={"designation": "piscine"})
        assert answer.status_code == 200
        assert answer.headers["ratelimit-policy"] == '"predict";q=10;w=60'
        assert answer.headers["ratelimit"].startswith(f'"predict";r={left};t=')
    refused = service.post("/predict", name="anne", json={"designation": "piscine"})
    assert refused.status_code == 429
    assert refused.json()["type"] == "urn:aisle:problem:too-many-requests"
    assert int(refused.headers["retry-after"]) > 0
    assert service.post("/predict", name="bob", json={"designation": "piscine"}).status_code == 200
    assert service.client.get("/livez").status_code == 200


def test_a_role_may_have_a_limit_of_its_own(start_service: Starter) -> None:
    service = start_service(rate_limits="predict=1/minute, predict:admin=2/minute")

    def statuses(role: Role) -> list[int]:
        return [service.post("/predict", role, json={"designation": "a"}).status_code for _ in range(3)]

    assert statuses(Role.CLIENT) == [200, 429, 429]
    assert statuses(Role.ADMIN) == [200, 200, 429]


def test_a_refused_product_shows_the_limit_too(start_service: Starter) -> None:
    service = start_service(rate_limits="predict=10/minute")
    answer = service.post("/predict", json={})
    assert answer.status_code == 422
    assert "ratelimit" in answer.headers


def test_while_the_queue_is_full_predictions_are_refused_before_anything_else(start_service: Starter) -> None:
    service = start_service(queue_size=1)
    queue = service.client.app.state.parts.queue  # type: ignore[attr-defined]
    with queue.place():
        refused = service.client.post("/predict", headers={"Accept-Language": "en"})
        assert service.get("/model").status_code == 200
    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:aisle:problem:overloaded"
    assert refused.headers["retry-after"] == "1"
    assert service.post("/predict", json={"designation": "a"}).status_code == 200
    assert 'route="/predict",status="503"' in service.client.get("/metrics").text

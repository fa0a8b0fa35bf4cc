"""What people send never reaches the logs: no text, no image, no token, no password, whatever comes of it."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.service.conftest import Service

from aisle.auth.accounts import Accounts
from aisle.auth.app import create_app
from aisle.auth.keys import KeyPolicy, ensure_key
from aisle.logs import LogFile, get_logger, setup_logging
from aisle.settings import Settings
from aisle.store.users import Role

TITLE, DESCRIPTION, PASSWORD = "Zzyzx tondeuse", "Qwxyz sans fil", "correct horse zebra"
SAID = ("Zzyzx", "Qwxyz", "zebra", "wrong-secret", "not.a.token", "SKU-hidden")


@pytest.fixture
def lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """The log as it is written at the most talkative level; reading it sees that it is written at all."""
    caplog.set_level(logging.WARNING, logger="httpx2")  # the client of these tests, and nobody's in a service
    setup_logging(LogFile.SERVING, tmp_path / "logs", level="DEBUG", terminal=False)

    def read() -> str:
        get_logger(__name__).info("the end")
        text = (tmp_path / "logs" / LogFile.SERVING).read_text()
        assert "the end" in text
        return text

    return read


@pytest.fixture
def token_service(service: Service) -> Iterator[TestClient]:
    Accounts(service.engine, "test").add_person("anne", Role.CLIENT, PASSWORD)
    ensure_key(service.engine, KeyPolicy.of(Settings()))
    with TestClient(create_app(service.engine, Settings()), raise_server_exceptions=False) as client:
        yield client


def test_products_that_are_predicted_explained_and_corrected(
    service: Service, lines: Callable[[], str], photo: bytes
) -> None:
    form = {"designation": TITLE, "description": DESCRIPTION, "product_identifier": "SKU-hidden"}
    answer = service.post("/predict", data=form, files={"image": ("Zzyzx.jpg", photo)})
    body = {"designation": TITLE, "description": DESCRIPTION, "image": base64.b64encode(photo).decode()}
    assert answer.status_code == service.post("/explain", json=body).status_code == 200, answer.text
    said = {"prediction_id": answer.json()["prediction_id"], "type": answer.json()["predicted"]}
    assert service.post("/feedback", json=said).status_code == 201
    hidden = (*SAID, base64.b64encode(photo).decode()[:60], repr(photo[:12])[2:-1], service.token()[-40:])
    text = lines()
    assert text.count('"event": "request"') == 3
    assert [one for one in hidden if one in text] == []


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (401, {"json": {"designation": TITLE}, "headers": {"Authorization": "Bearer not.a.token"}}),
        (422, {"json": {"designation": [TITLE]}}),
        (400, {"content": b'{"designation": "Zzyzx', "headers": {"Content-Type": "application/json"}}),
        (415, {"data": {"designation": TITLE}, "files": {"image": ("Zzyzx.jpg", b"Qwxyz is no image")}}),
        (422, {"json": {"designation": TITLE, "description": DESCRIPTION * 10_000}}),
    ],
    ids=["token", "kind", "json", "image", "length"],
)
def test_products_that_are_refused(
    service: Service, lines: Callable[[], str], status: int, request_: dict[str, Any]
) -> None:
    answer = service.post("/predict?designation=Zzyzx", **request_)
    assert answer.status_code == status, answer.text
    assert [one for one in SAID if one in lines()] == []


def test_a_failure_of_ours_shows_no_product_in_its_traceback(
    service: Service, lines: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aisle.service.routes.predict.Hashes.of", lambda _: 1 / 0)
    assert service.post("/predict", json={"designation": TITLE}).status_code == 500
    text = lines()
    assert "ZeroDivisionError" in text
    assert [one for one in SAID if one in text] == []


def test_signing_in_refreshing_and_failing_to(token_service: TestClient, lines: Callable[[], str]) -> None:
    right = token_service.post("/token", data={"username": "anne", "password": PASSWORD})
    assert right.status_code == 200
    tokens = [right.json()[name] for name in ("access_token", "refresh_token")]
    for form in (
        {"username": "anne", "password": "wrong-secret"},
        {"grant_type": "refresh_token", "refresh_token": tokens[1]},
        {"grant_type": "refresh_token", "refresh_token": "not.a.token"},
    ):
        token_service.post("/token", data=form)
    token_service.get("/users", headers={"Authorization": "Bearer not.a.token"})
    text = lines()
    assert text.count('"event": "request"') == 5
    assert [one for one in (*SAID, tokens[0][-40:], tokens[1][-20:]) if one in text] == []


def test_lines_are_json_with_the_user_and_the_route(service: Service, lines: Callable[[], str]) -> None:
    service.post("/predict", json={"designation": TITLE}, name="anne")
    found = [json.loads(line) for line in lines().splitlines()]
    request = next(one for one in found if one["event"] == "request")
    assert (request["user"], request["route"], request["status"]) == ("anne", "/predict", 200)

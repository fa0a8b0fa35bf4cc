"""The original project's three tests of its API: status, root, predict.

PYTHONPATH=$(pwd) pytest tests/test_api.py
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from aisle.auth.access import signed_in
from aisle.auth.tokens import Identity, TokenPolicy, Verifier
from aisle.clock import utc_now
from aisle.model.bundle import Bundle
from aisle.service.app import create_app
from aisle.service.champion import Champion
from aisle.settings import Settings
from aisle.store.engine import open_database
from aisle.store.migrate import migrate
from aisle.store.users import Role


# The original imported a ready `app`, whose model lay in the repository. Here the application is made around a model
# that is trained for the tests, and the token dependency is overridden as the original's description says.
@pytest.fixture(scope="module")
def client(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    place = tmp_path_factory.mktemp("api")
    settings = Settings(records_path=place / "records")
    engine = open_database(f"sqlite:///{place / 'aisle.db'}")
    migrate(engine)
    verifier = Verifier(lambda: {"keys": []}, TokenPolicy.of(settings))
    app = create_app(Champion(lambda: Path(bundle.path), threads=1), engine, verifier, settings)
    app.dependency_overrides[signed_in] = lambda: Identity(
        "user1", Role.CLIENT, "token", utc_now() + timedelta(minutes=15)
    )
    with TestClient(app) as started:
        yield started


def test_status(client: TestClient) -> None:
    response = client.get("/status")
    assert response.status_code == 200
    assert response.json() == {"status": "L'API fonctionne correctement"}


def test_root(client: TestClient) -> None:
    response = client.get("/")
    assert response.status_code == 200
    data = response.json()
    assert "message" in data
    assert "Bienvenue" in data["message"]


def test_predict(client: TestClient) -> None:
    # The original sent the answer as the question, {"predicted": "1", "label": "label_1"}, which is no product: it is
    # refused now, and a real one is sent.
    assert client.post("/predict", json={"predicted": "1", "label": "label_1"}).status_code == 422
    sample = {"designation": "Piscine gonflable ronde 3 m avec pompe", "description": "Diamètre 3 m."}
    response = client.post("/predict", json=sample)
    assert response.status_code == 200
    data = response.json()
    assert data["predicted"] == "2583"
    assert data["label"] == "Piscine et accessoires"

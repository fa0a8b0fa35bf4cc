"""The prediction service's first routes, with a real bundle behind them."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import httpx2
import pytest
from fastapi.testclient import TestClient

from aisle.catalog import Prediction, Product
from aisle.data.prepare import Prepared
from aisle.model.predictor import Predictor
from aisle.service.app import create_app


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[TestClient]:
    with TestClient(create_app(predictor)) as started:
        yield started


@pytest.fixture(scope="module")
def photo(prepared: Prepared) -> bytes:
    images = prepared.images()
    assert images is not None
    return images.read(prepared.products().drop_nulls("image")["image"][0])


def expected(predictor: Predictor, product: Product) -> list[tuple[str, float]]:
    [prediction] = predictor.predict([product])
    assert isinstance(prediction, Prediction)
    return [(one.type.code, one.confidence) for one in prediction.candidates]


def answered(response: httpx2.Response) -> list[tuple[str, float]]:
    assert response.status_code == 200, response.text
    return [(one["prediction"], one["confidence"]) for one in response.json()["predictions"]]


def test_the_status_is_the_original_projects(client: TestClient) -> None:
    assert client.get("/status").json() == {"status": "L'API fonctionne correctement"}


def test_the_root_welcomes(client: TestClient) -> None:
    assert client.get("/").json()["message"].startswith("Bienvenue")


def test_the_platform_is_told_that_it_lives_and_is_ready(client: TestClient, predictor: Predictor) -> None:
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").json() == {"status": "ready", "model": predictor.version}


def test_a_form_with_all_fields_is_predicted_as_the_predictor_does(
    client: TestClient, predictor: Predictor, photo: bytes
) -> None:
    fields = {
        "product_identifier": "1",
        "designation": "Livre ancien",
        "description": "relié",
        "product_id": "12",
        "imageid": "34",
    }
    response = client.post("/predict", data=fields, files={"image": ("photo.jpg", photo, "image/jpeg")})
    assert answered(response) == expected(predictor, Product("Livre ancien", "relié", photo))
    body = response.json()
    assert body["predicted"] == body["predictions"][0]["prediction"]
    assert body["decision"] in ("accept", "review")
    assert body["model"] == predictor.version
    assert len(body["request_id"]) == 32


def test_json_with_the_image_in_base64_is_the_same(client: TestClient, predictor: Predictor, photo: bytes) -> None:
    body = {"designation": "Livre ancien", "product_id": 12, "image": base64.b64encode(photo).decode()}
    assert answered(client.post("/predict", json=body)) == expected(predictor, Product("Livre ancien", "", photo))


def test_a_title_alone_and_an_image_alone_are_enough(client: TestClient, predictor: Predictor, photo: bytes) -> None:
    assert answered(client.post("/predict", data={"designation": "piscine"})) == expected(
        predictor, Product("piscine")
    )
    response = client.post("/predict", files={"image": photo})
    assert answered(response) == expected(predictor, Product("", "", photo))


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"data": {"designation": "  "}}, 422, "nothing to classify"),
        ({"json": {}}, 422, "nothing to classify"),
        ({"json": []}, 422, "not a JSON object"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "not JSON"),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 422, "not JSON"),
        ({"json": {"designation": ["a"]}}, 422, "designation"),
        ({"json": {"designation": "x" * 200_000}}, 422, "designation"),
        ({"json": {"image": "???"}}, 422, "base64"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "send a form"),
        ({"data": {"designation": "a"}, "files": {"image": b"no image"}}, 422, "not a JPEG"),
        ({"files": {"image": b"x" * (9 << 20)}}, 413, "8 MiB"),
        ({"files": {"image": b"x" * (13 << 20)}}, 413, "the body has more than"),
        ({"files": [("image", b"a"), ("image", b"b")]}, 400, "files"),
    ],
)
def test_a_clients_mistake_is_a_4xx_that_says_what(
    client: TestClient, request_: dict[str, object], status: int, words: str
) -> None:
    response = client.post("/predict", **request_)  # type: ignore[arg-type]
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert words in response.json()["detail"]


def test_an_unknown_route_is_a_problem_too(client: TestClient) -> None:
    response = client.get("/nothing")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"

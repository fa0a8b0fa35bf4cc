"""`POST /predict`, with a real bundle behind it."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image
from tests.service.conftest import Service

from aisle.catalog import Prediction, Product
from aisle.model.predictor import Predictor
from aisle.service.uploads import MAX_BODY_BYTES, MAX_CHARACTERS
from aisle.store import predictions
from aisle.store.engine import reading


def expected(predictor: Predictor, product: Product) -> list[tuple[str, float]]:
    [prediction] = predictor.predict([product])
    assert isinstance(prediction, Prediction)
    return [(one.type.code, one.confidence) for one in prediction.candidates]


def answered(response: Any) -> list[tuple[str, float]]:
    assert response.status_code == 200, response.text
    return [(one["prediction"], one["confidence"]) for one in response.json()["predictions"]]


def picture(kind: str = "PNG", size: tuple[int, int] = (8, 8), frames: int = 1) -> bytes:
    out = io.BytesIO()
    more = [Image.new("RGB", size, (20 * frame, 0, 0)) for frame in range(1, frames)]
    Image.new("RGB", size).save(out, kind, **({"save_all": True, "append_images": more} if more else {}))
    return out.getvalue()


@pytest.mark.parametrize("path", ["/predict", "/predict_code"])
def test_a_form_with_all_fields_is_predicted_as_the_predictor_does(
    service: Service, predictor: Predictor, photo: bytes, path: str
) -> None:
    fields = {
        "product_identifier": "1",
        "designation": "Livre ancien",
        "description": "relié",
        "product_id": "12",
        "imageid": "34",
    }
    response = service.post(path, data=fields, files={"image": ("photo.jpg", photo, "image/jpeg")})
    assert answered(response) == expected(predictor, Product("Livre ancien", "relié", photo))
    body = response.json()
    assert body["predicted"] == body["predictions"][0]["prediction"]
    assert body["decision"] in ("accept", "review")
    assert body["model"] == predictor.version
    assert body["request_id"] == response.headers["x-request-id"]


def test_json_with_the_image_in_base64_is_the_same(service: Service, predictor: Predictor, photo: bytes) -> None:
    body = {"designation": "Livre ancien", "product_id": 12, "image": base64.b64encode(photo).decode()}
    assert answered(service.post("/predict", json=body)) == expected(predictor, Product("Livre ancien", "", photo))


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"product_identifier": "a", "product_id": 1, "imageid": 2}, "a"),
        ({"product_identifier": " ", "product_id": 1, "imageid": 2}, "1"),
        ({"imageid": "2\0"}, "2 "),
        ({}, None),
    ],
)
def test_the_record_has_the_products_key(service: Service, fields: dict[str, Any], key: str | None) -> None:
    answer = service.post("/predict", json={"designation": "Livre ancien", **fields}).json()
    service.client.app.state.parts.recorder.flush()  # type: ignore[attr-defined]
    with reading(service.engine) as connection:
        record = predictions.find(connection, answer["prediction_id"])
    assert record is not None
    assert record.product_key == key
    assert record.seconds is not None
    assert (record.seconds > 0, record.experiment_id, record.arm) == (True, None, None)


def test_a_title_alone_and_an_image_alone_are_enough(service: Service, predictor: Predictor, photo: bytes) -> None:
    for request in ({"data": {"designation": "piscine"}}, {"json": {"designation": "piscine", "image": None}}):
        assert answered(service.post("/predict", **request)) == expected(predictor, Product("piscine"))
    response = service.post("/predict", files={"image": photo})
    assert answered(response) == expected(predictor, Product("", "", photo))


def test_a_browsers_empty_file_is_no_file(service: Service) -> None:
    boundary = "x"
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="designation"\r\n\r\npiscine\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename=""\r\n'
        f"Content-Type: application/octet-stream\r\n\r\n\r\n--{boundary}--\r\n"
    )
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    assert service.post("/predict", content=body.encode(), headers=headers).status_code == 200


def as_json(value: object) -> dict[str, object]:
    return {"content": json.dumps(value).encode(), "headers": {"content-type": "application/json"}}


@pytest.mark.parametrize(
    ("request_", "status", "problem"),
    [
        ({"data": {"designation": "  "}}, 422, "nothing-to-classify"),
        ({"data": {"designation": "<br>"}}, 422, "nothing-to-classify"),
        ({"json": {}}, 422, "nothing-to-classify"),
        ({"json": []}, 400, "broken-json"),
        ({"json": "text"}, 400, "broken-json"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "broken-json"),
        ({"content": b"\xff\xfe", "headers": {"content-type": "application/json"}}, 400, "broken-json"),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400, "broken-json"),
        ({"content": b"[" + b"[]," * 2_000_000 + b"1]", "headers": {"content-type": "application/json"}},
         422, "too-many-fields"),
        ({"content": b"%" * 7_000_000, "headers": {"content-type": "application/x-www-form-urlencoded"}},
         413, "body-too-large"),
        ({"json": {"designation": ["a"]}}, 422, "field-invalid"),
        ({"json": {"designation": True}}, 422, "field-invalid"),
        (as_json({"designation": "\ud800"}), 422, "field-invalid"),
        ({"json": {"designation": "x" * (MAX_CHARACTERS["designation"] + 1)}}, 422, "field-too-long"),
        ({"data": {"description": "x" * (MAX_CHARACTERS["description"] + 1)}}, 422, "field-too-long"),
        ({"data": {"product_id": "x" * 201}}, 422, "field-too-long"),
        ({"json": {f"field{n}": "" for n in range(9)}}, 422, "too-many-fields"),
        ({"data": {f"field{n}": "" for n in range(9)}}, 422, "too-many-fields"),
        ({"data": {"designation": ["a", "b"]}}, 422, "repeated-field"),
        ({"files": [("image", b"a"), ("image", b"b")]}, 422, "too-many-files"),
        ({"files": {"photo": b"a"}}, 422, "wrong-file-field"),
        ({"data": {"image": "text"}}, 422, "image-not-a-file"),
        ({"json": {"image": "???"}}, 422, "image-not-base64"),
        ({"json": {"image": "é"}}, 422, "image-not-base64"),
        ({"json": {"image": 3}}, 422, "image-not-base64"),
        ({"files": {"image": ("a.jpg", b"")}}, 422, "image-empty"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "wrong-content-type"),
        ({"content": b"x", "headers": {"content-type": ""}}, 415, "wrong-content-type"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "broken-form"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400, "broken-form"),
        ({"files": {"image": b"no image"}}, 415, "image-unknown-format"),
        ({"files": {"image": picture("GIF")}}, 415, "image-unknown-format"),
        ({"files": {"image": picture("JPEG", (300, 300))[:700]}}, 422, "image-damaged"),
        ({"files": {"image": picture("PNG", (8001, 1))}}, 422, "image-too-large"),
        ({"files": {"image": picture("PNG", (5001, 5000))}}, 422, "image-too-large"),
        ({"files": {"image": picture("WEBP", frames=2)}}, 422, "image-animated"),
        ({"files": {"image": b"x" * (MAX_BODY_BYTES + 1)}}, 413, "body-too-large"),
        ({"content": iter([b"x" * (1 << 20)] * 9), "headers": {"content-type": "multipart/form-data; boundary=b"}},
         413, "body-too-large"),
        ({"json": {"designation": "x" * MAX_BODY_BYTES}}, 413, "body-too-large"),
    ],
)  # fmt: skip
def test_each_mistake_of_a_client_has_its_own_problem(
    service: Service, request_: dict[str, Any], status: int, problem: str
) -> None:
    response = service.post("/predict", **request_)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == f"urn:aisle:problem:{problem}"


def test_a_damaged_image_is_a_problem_though_there_is_a_title(service: Service) -> None:
    response = service.post("/predict", data={"designation": "piscine"}, files={"image": b"no image"})
    assert response.status_code == 415


@pytest.mark.parametrize(
    ("wanted", "language", "words"),
    [
        ("fr", "fr", "rien à classer"),
        ("en-GB,en;q=0.9", "en", "nothing to classify"),
        ("de, fr;q=0.2, en;q=0.1", "fr", "rien à classer"),
        ("", "fr", "rien à classer"),
        ("en;q=nonsense", "fr", "rien à classer"),
    ],
)
def test_a_problem_is_told_in_the_clients_language(service: Service, wanted: str, language: str, words: str) -> None:
    response = service.post("/predict", json={}, headers={"Accept-Language": wanted})
    assert response.headers["content-language"] == language
    assert words in response.json()["detail"]


def test_the_message_is_in_the_clients_language(service: Service) -> None:
    def message(language: str) -> str:
        answer = service.post("/predict", json={"designation": "a"}, headers={"Accept-Language": language})
        return str(answer.json()["message"])

    assert message("fr").startswith("Type proposé : ")
    assert message("en").startswith("Proposed type: ")

"""The record of predictions and `POST /feedback`, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select
from tests.service.conftest import Service, Starter

from aisle.clock import utc_now
from aisle.service.recorder import Recorder
from aisle.store import experiments, predictions
from aisle.store.engine import reading, writing
from aisle.store.experiments import Kind, Shadowed
from aisle.store.schema import predictions as table
from aisle.store.schema import shadow_predictions
from aisle.store.users import Role


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def on_each_database(request: pytest.FixtureRequest, start_service: Starter) -> Service:
    if request.param == "sqlite":
        return start_service()
    return start_service(database_url=request.getfixturevalue("empty_postgres"))


def predicted(service: Service, name: str = "shop", **fields: Any) -> dict[str, Any]:
    answer = service.post("/predict", name=name, json={"designation": "Piscine ronde", **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def correct(service: Service, role: Role, name: str, prediction_id: str, code: Any) -> Any:
    return service.post("/feedback", role, name, json={"prediction_id": prediction_id, "type": code})


def test_a_prediction_is_recorded_as_it_was_answered(on_each_database: Service, photo: bytes) -> None:
    service = on_each_database
    fields = {"designation": "Piscine\0ronde", "description": "3 m"}
    answer = service.post("/predict", name="shop", data=fields, files={"image": photo}).json()
    code = answer["predictions"][1]["prediction"]
    assert correct(service, Role.CLIENT, "shop", answer["prediction_id"], code).status_code == 201
    with reading(service.engine) as connection:
        record = predictions.find(connection, answer["prediction_id"])
        [feedback] = predictions.feedback_on(connection, answer["prediction_id"])
    assert record is not None
    assert (record.user_name, record.designation, record.description) == ("shop", "Piscine ronde", "3 m")
    assert (record.predicted, record.confidence) == (answer["predicted"], answer["confidence"])
    assert [one["code"] for one in record.top] == [one["prediction"] for one in answer["predictions"]]
    assert (record.decision, record.model_version) == (answer["decision"], answer["model"])
    assert record.image_hash is not None
    assert (feedback.user_name, feedback.type_code) == ("shop", code)


def test_equal_products_have_equal_input_hashes(service: Service) -> None:
    one, same, other = predicted(service), predicted(service), predicted(service, description="3 m")
    service.client.app.state.parts.recorder.flush()  # type: ignore[attr-defined]
    with reading(service.engine) as connection:
        hashes = [
            record.input_hash
            for answer in (one, same, other)
            if (record := predictions.find(connection, answer["prediction_id"])) is not None
        ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_same_request_id_twice_is_two_predictions(service: Service) -> None:
    answers = [
        service.post("/predict", json={"designation": "a"}, headers={"X-Request-ID": "mine"}).json() for _ in range(2)
    ]
    assert [answer["request_id"] for answer in answers] == ["mine", "mine"]
    assert answers[0]["prediction_id"] != answers[1]["prediction_id"]
    assert service.client.app.state.parts.recorder.flush()  # type: ignore[attr-defined]


def test_a_client_corrects_its_own_predictions_and_a_reviewer_anybodys(service: Service) -> None:
    answer = predicted(service, "anne")
    code = answer["predicted"]
    assert correct(service, Role.CLIENT, "anne", answer["prediction_id"], code).status_code == 201
    assert correct(service, Role.CLIENT, "bob", answer["prediction_id"], code).status_code == 403
    for role in (Role.REVIEWER, Role.ADMIN):
        assert correct(service, role, "carl", answer["prediction_id"], int(code)).status_code == 201


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ({"prediction_id": "0" * 32, "type": "2583"}, 404, "no-such-prediction"),
        ({"prediction_id": "0" * 32, "type": "no type"}, 422, "no-such-type"),
        ({"prediction_id": "x", "type": "2583"}, 422, "field-invalid"),
        ({"prediction_id": "0" * 32}, 422, "field-missing"),
        ({"prediction_id": "0" * 32, "type": "9" * 51}, 422, "field-too-long"),
        ({"prediction_id": "0" * 32, "type": "2583", "more": 1}, 422, "field-invalid"),
        ([], 422, "field-invalid"),
    ],
)
def test_a_mistake_in_a_feedback_is_told(service: Service, body: Any, status: int, problem: str) -> None:
    answer = service.post("/feedback", Role.ADMIN, json=body)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:aisle:problem:{problem}"), answer.text


def test_a_body_that_is_no_json_is_told(service: Service) -> None:
    answer = service.post("/feedback", content=b"{", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:aisle:problem:broken-json")


def record_of(service: Service) -> predictions.PredictionRecord:
    answer = predicted(service)
    service.client.app.state.parts.recorder.flush()  # type: ignore[attr-defined]
    with reading(service.engine) as connection:
        record = predictions.find(connection, answer["prediction_id"])
    assert record is not None
    return record


def test_records_older_than_the_retention_are_deleted(start_service: Starter) -> None:
    service = start_service()
    record_of(service)
    later = Recorder(service.engine, keep=timedelta(days=30), clock=lambda: utc_now() + timedelta(days=31))
    later.forget()
    with reading(service.engine) as connection:
        assert connection.execute(select(func.count()).select_from(table)).scalar_one() == 0


def test_what_waits_is_written_when_the_recorder_stops(start_service: Starter) -> None:
    service = start_service()
    record = record_of(service)
    recorder = Recorder(service.engine, keep=timedelta(days=1))
    recorder.start()
    copies = [predictions.PredictionRecord(**{**vars(record), "id": f"{number:032x}"}) for number in range(3)]
    for copy in copies:
        recorder.record(copy)
    recorder.stop()
    with reading(service.engine) as connection:
        assert all(predictions.find(connection, copy.id) for copy in copies)


def test_a_record_that_no_database_takes_does_not_hold_up_the_others(start_service: Starter) -> None:
    service = start_service()
    record = record_of(service)
    recorder = Recorder(service.engine, keep=timedelta(days=1))
    good = predictions.PredictionRecord(**{**vars(record), "id": "f" * 32})
    recorder.record(record)  # is there already
    recorder.record(good)
    assert recorder.flush()
    with reading(service.engine) as connection:
        assert predictions.find(connection, good.id)


def shadowed(prediction_id: str) -> Shadowed:
    return Shadowed(prediction_id, 1, "0" * 64, "10", 0.5, agrees=True, seconds=0.1, champion_seconds=0.1)


def test_what_a_challenger_said_is_recorded_with_its_prediction(on_each_database: Service) -> None:
    """And where the prediction never came, as one that was dropped, it does not hold up the others."""
    service = on_each_database
    record = record_of(service)
    first, second = (predictions.PredictionRecord(**{**vars(record), "id": letter * 32}) for letter in "ab")
    with writing(service.engine) as connection:
        experiments.start(
            connection, kind=Kind.SHADOW, champion="a", challenger="b", share=1, rules={}, who="x", at=utc_now()
        )
    recorder = Recorder(service.engine, keep=timedelta(days=1))
    for one in (first, shadowed("c" * 32), shadowed(first.id), second, shadowed(second.id)):
        recorder.record(one)
    assert recorder.flush()
    with reading(service.engine) as connection:
        found = connection.execute(select(shadow_predictions.c.prediction_id).order_by("prediction_id"))
        assert found.scalars().all() == [first.id, second.id]

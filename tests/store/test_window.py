"""What a look at drift reads: the last products of a version, what people said last, what was decided."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import Engine
from tests.store.conftest import NOW
from tests.store.test_records import RECORD

from aisle.store import predictions
from aisle.store.engine import reading, writing
from aisle.store.predictions import Decided, Feedback, PredictionRecord


def served(place: int, **changed: object) -> PredictionRecord:
    """The prediction of minute `place`, each of another product."""
    record = replace(
        RECORD, id=f"{place:032x}", created_at=NOW + timedelta(minutes=place), input_hash=f"{place:064x}"
    )
    return replace(record, **changed)  # type: ignore[arg-type]


def store(engine: Engine, *records: PredictionRecord) -> None:
    with writing(engine) as connection:
        predictions.add(connection, records)


def test_the_last_products_come_newest_first_and_as_they_were_recorded(engine: Engine) -> None:
    facts = {"width": 500, "components": [0.5, -1.25]}
    records = [served(place, image_facts=facts, product_key=f"key {place}") for place in range(5)]
    store(engine, *records)
    with reading(engine) as connection:
        assert predictions.latest_products(connection, "v1", 3) == records[:1:-1]
        assert predictions.latest_products(connection, "v2", 3) == []
        assert predictions.latest_products(connection, "v1", 9, since=NOW + timedelta(minutes=3)) == records[:2:-1]


def test_a_product_counts_once_by_its_content_and_by_its_key(engine: Engine) -> None:
    first, again = served(0, product_key="a"), served(1, product_key="b", input_hash=f"{0:064x}")
    edited, other = served(2, product_key="b"), served(3)
    store(engine, first, again, edited, other)
    with reading(engine) as connection:
        assert predictions.latest_products(connection, "v1", 9) == [other, edited]


def test_the_last_word_on_a_prediction_is_its_label(engine: Engine) -> None:
    store(engine, served(0), served(1), served(2, model_version="v2"), served(3))
    with writing(engine) as connection:
        for place, code in ((0, "10"), (1, "40"), (0, "60"), (2, "40")):
            predictions.add_feedback(connection, Feedback(f"{place:032x}", NOW, "anne", code))
    with reading(engine) as connection:
        found = predictions.latest_labels(connection, "v1", 9)
        assert [(one.created_at, one.type_code) for one in found] == [
            (NOW + timedelta(minutes=1), "40"),
            (NOW, "60"),
        ]
        assert predictions.latest_labels(connection, "v1", 1) == found[:1]
        assert predictions.latest_labels(connection, "v1", 9, since=NOW + timedelta(minutes=1)) == found[:1]


def test_decisions_are_counted_with_their_mean_confidence(engine: Engine) -> None:
    store(
        engine,
        served(0),
        served(1, confidence=0.5, decision="review"),
        served(2, confidence=0.25, decision="review"),
        served(3, model_version="v2"),
    )
    with reading(engine) as connection:
        assert predictions.decided(connection, "v1", since=NOW) == {
            "accept": Decided(1, 0.9),
            "review": Decided(2, 0.375),
        }
        assert set(predictions.decided(connection, "v1", since=NOW + timedelta(minutes=1))) == {"review"}

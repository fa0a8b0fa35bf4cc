"""What begins a retraining, and what holds one back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection

from aisle.loop.triggers import Due, NotDue, what_is_due
from aisle.settings import Settings
from aisle.store import predictions, retrainings
from aisle.store.engine import open_database, writing
from aisle.store.migrate import migrate
from aisle.store.predictions import Feedback, PredictionRecord
from aisle.store.retrainings import Cause, Stage

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SETTINGS = Settings(
    retrain_min_corrections=20, retrain_least_labels=5, retrain_cooldown_hours=24, retrain_every_days=30
)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = open_database(f"sqlite:///{tmp_path / 'aisle.db'}")
    migrate(engine)
    with writing(engine) as opened:
        yield opened
    engine.dispose()


def label(connection: Connection, count: int, *, begin: int = 0, product: str = "") -> None:
    """So many products are predicted, and a person gives each a type."""
    for number in range(begin, begin + count):
        record = PredictionRecord(
            id=f"{number:032x}", created_at=NOW, user_name="shop", input_hash=product or f"{number:064x}",
            designation="Piscine", description="", image_hash=None, predicted="10", confidence=0.5, top=[],
            decision="review", model_version="v1",
        )  # fmt: skip
        predictions.add(connection, [record])
        predictions.add_feedback(connection, Feedback(record.id, NOW, "anne", "2583"))


def look(connection: Connection, *, trained_at: datetime | None = NOW, settings: Settings = SETTINGS) -> Due | NotDue:
    return what_is_due(connection, settings, now=NOW, trained_at=trained_at)


def past(connection: Connection, *, ended: timedelta, last_word: int = 0) -> None:
    begun = retrainings.begin(connection, Cause.HAND, asked_by="anne", at=NOW - ended, detail={})
    detail = {"collected": {"last_word": last_word}}
    retrainings.move(connection, begun, Stage.DONE, at=NOW - ended, detail=detail)


def drift(connection: Connection) -> None:
    retrainings.ask(connection, Cause.DRIFT, asked_by="alertmanager", reason="DriftDetected", at=NOW)


def test_with_nothing_to_do_nothing_begins(connection: Connection) -> None:
    found = look(connection)
    assert isinstance(found, NotDue)
    assert "nothing asks" in found.reason


def test_enough_corrections_begin_one(connection: Connection) -> None:
    label(connection, 19)
    assert isinstance(look(connection), NotDue)
    label(connection, 1, begin=19)
    found = look(connection)
    assert isinstance(found, Due)
    assert found.cause is Cause.CORRECTIONS


def test_many_words_on_one_product_are_one_correction(connection: Connection) -> None:
    label(connection, 40, product="a" * 64)
    assert isinstance(look(connection), NotDue)


def test_what_the_last_retraining_learnt_from_counts_no_more(connection: Connection) -> None:
    label(connection, 30)
    past(connection, ended=timedelta(days=2), last_word=25)
    assert isinstance(look(connection), NotDue)


def test_the_calendar_begins_one_where_there_is_something_to_learn(connection: Connection) -> None:
    old = NOW - timedelta(days=31)
    found = look(connection, trained_at=old)
    assert isinstance(found, NotDue)
    assert "0 products" in found.reason
    label(connection, 5)
    found = look(connection, trained_at=old)
    assert isinstance(found, Due)
    assert found.cause is Cause.SCHEDULE


def test_the_calendar_can_be_switched_off(connection: Connection) -> None:
    label(connection, 5)
    settings = SETTINGS.model_copy(update={"retrain_every_days": 0})
    assert isinstance(look(connection, trained_at=NOW - timedelta(days=900), settings=settings), NotDue)


def test_an_alert_begins_one(connection: Connection) -> None:
    label(connection, 5)
    drift(connection)
    found = look(connection)
    assert isinstance(found, Due)
    assert (found.cause, found.reason, len(found.requests)) == (Cause.DRIFT, "DriftDetected", 1)


def test_an_alert_with_nothing_new_to_learn_from_is_turned_down_with_the_reason(connection: Connection) -> None:
    label(connection, 4)
    drift(connection)
    found = look(connection)
    assert isinstance(found, NotDue)
    assert "only 4 products" in found.reason
    assert len(found.requests) == 1


@pytest.mark.parametrize("cause", ["alert", "corrections"])
def test_after_a_retraining_there_is_a_cool_down(connection: Connection, cause: str) -> None:
    past(connection, ended=timedelta(hours=23))
    label(connection, 20)
    if cause == "alert":
        drift(connection)
    found = look(connection)
    assert isinstance(found, NotDue)
    assert "not before 2026-11-25 13:00" in found.reason


def test_a_person_does_not_wait(connection: Connection) -> None:
    past(connection, ended=timedelta(hours=1))
    retrainings.ask(connection, Cause.HAND, asked_by="anne", reason="the new collection", at=NOW)
    found = look(connection)
    assert isinstance(found, Due)
    assert found.reason == "the new collection"


def test_an_alert_that_is_sent_again_is_one_request(connection: Connection) -> None:
    drift(connection)
    drift(connection)
    assert len(retrainings.requests(connection)) == 1
    retrainings.answer(connection, retrainings.requests(connection), "no", at=NOW)
    drift(connection)
    assert len(retrainings.requests(connection)) == 1


def test_one_retraining_at_a_time(connection: Connection) -> None:
    from aisle.errors import CheckFailed

    retrainings.begin(connection, Cause.HAND, asked_by="anne", at=NOW, detail={})
    with pytest.raises(CheckFailed, match="under way"):
        retrainings.begin(connection, Cause.DRIFT, asked_by="anne", at=NOW, detail={})


def test_a_retraining_that_somebody_else_moved_is_not_moved_again(connection: Connection) -> None:
    from aisle.errors import CheckFailed

    begun = retrainings.begin(connection, Cause.HAND, asked_by="anne", at=NOW, detail={})
    retrainings.move(connection, begun, Stage.TRAIN, at=NOW, detail={})
    with pytest.raises(CheckFailed, match="not in the stage collect"):
        retrainings.move(connection, begun, Stage.TRAIN, at=NOW, detail={})

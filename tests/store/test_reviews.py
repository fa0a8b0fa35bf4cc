"""The review queue in the database: its order, and that its cost does not grow with what waits; on both engines."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from tests.store.conftest import NOW
from tests.store.test_records import RECORD

from aisle.store import predictions, reviews
from aisle.store.engine import open_database, reading, writing
from aisle.store.migrate import migrate
from aisle.store.predictions import Feedback, PredictionRecord


def unsure(number: int, best: str, second: str, margin: float, **more: Any) -> PredictionRecord:
    """A prediction between two types."""
    top = [
        {"code": best, "label": best, "confidence": 0.5},
        {"code": second, "label": second, "confidence": 0.5 - margin},
    ]
    facts = {"id": f"{number:032x}", "input_hash": f"{number:064x}", "decision": "review", "predicted": best}
    return replace(RECORD, **{**facts, "top": top, **more})


def queued(engine: Engine, *records: PredictionRecord) -> None:
    with writing(engine) as connection:
        predictions.add(connection, records)
        reviews.enqueue(connection, records)


def looked_at(engine: Engine, prediction_id: str, name: str = "anne", code: str = "10") -> None:
    with writing(engine) as connection:
        predictions.add_feedback(connection, Feedback(prediction_id, NOW, name, code))
        reviews.looked_at(connection, prediction_id)


def order(engine: Engine) -> list[int]:
    """All that waits, in the order in which somebody would look at it."""
    found: list[int] = []
    while True:
        with reading(engine) as connection:
            record = reviews.next_one(connection, at=NOW)
        if record is None:
            return found
        found.append(int(record.id, 16))
        looked_at(engine, record.id)


def test_the_least_sure_comes_first(engine: Engine) -> None:
    queued(engine, unsure(1, "10", "40", 0.3), unsure(2, "50", "60", 0.1), unsure(3, "10", "60", 0.2))
    assert order(engine) == [2, 3, 1]


def test_the_same_hesitation_does_not_come_again_and_again(engine: Engine) -> None:
    """Whichever of the two types is the first."""
    alike = [unsure(number, *(("10", "40") if number % 2 else ("40", "10")), 0.01 * number) for number in range(1, 9)]
    queued(engine, *alike, unsure(20, "50", "60", 0.3), unsure(30, "1280", "1281", 0.35))
    assert set(order(engine)[:4]) >= {20, 30}


def test_what_is_accepted_does_not_wait(engine: Engine) -> None:
    queued(engine, unsure(1, "10", "40", 0.3, decision="accept"))
    assert order(engine) == []


def test_a_prediction_that_is_forgotten_waits_no_more(engine: Engine) -> None:
    queued(engine, unsure(1, "10", "40", 0.3))
    with writing(engine) as connection:
        predictions.delete_older(connection, than=RECORD.created_at + timedelta(days=1))
    with reading(engine) as connection:
        assert reviews.count_waiting(connection) == 0


def test_the_last_word_of_one_is_taken_back_and_that_of_others_stays(engine: Engine) -> None:
    queued(engine, unsure(1, "10", "40", 0.3))
    looked_at(engine, f"{1:032x}", "anne")
    looked_at(engine, f"{1:032x}", "rita")
    with writing(engine) as connection:
        assert reviews.take_back(connection, f"{1:032x}", "anne")
        assert not reviews.take_back(connection, f"{1:032x}", "anne")
        assert [one.user_name for one in reviews.corrections(connection)] == ["rita"]
        assert reviews.count_waiting(connection) == 0
        assert reviews.take_back(connection, f"{1:032x}", "rita")
        assert reviews.count_waiting(connection) == 1


def test_the_words_of_an_hour_are_counted_beyond_those_that_agreement_is_of(engine: Engine) -> None:
    queued(engine, unsure(1, "10", "40", 0.1))
    words = [Feedback(unsure(1, "10", "40", 0.1).id, NOW, "anne", "10")] * (reviews.PACE + 7)
    with writing(engine) as connection:
        for word in words:
            predictions.add_feedback(connection, word)
        found = reviews.pace(connection, "anne", since=NOW)
        later = reviews.pace(connection, "anne", since=NOW + timedelta(seconds=1))
    assert (found.in_an_hour, found.words, later.in_an_hour) == (reviews.PACE + 7, reviews.PACE, 0)


def test_labels_of_late_are_the_last_words_on_each_product_of_a_version(engine: Engine) -> None:
    queued(engine, unsure(1, "10", "40", 0.3), unsure(2, "10", "40", 0.3, model_version="another"))
    for number, code in ((1, "40"), (2, "40"), (1, "10")):
        looked_at(engine, f"{number:032x}", code=code)
    with reading(engine) as connection:
        found = reviews.recent_labels(connection, RECORD.model_version, 100, since=RECORD.created_at)
    assert [(one.predicted, one.type_code) for one in found] == [("10", "10")]


def test_pages_of_corrections_join_without_a_gap(engine: Engine) -> None:
    queued(engine, *(unsure(number, "10", "40", 0.1) for number in range(1, 8)))
    for number in range(1, 8):
        looked_at(engine, f"{number:032x}")
    with reading(engine) as connection:
        first = list(reviews.corrections(connection, count=3))
        rest = list(reviews.corrections(connection, before=first[-1].id))
        assert [int(one.prediction_id, 16) for one in first + rest] == [7, 6, 5, 4, 3, 2, 1]


def taken(engine: Engine, name: str, at: datetime = NOW) -> int | None:
    """What somebody who asks for a product gets, as the console gives it to them."""
    while True:
        with reading(engine) as connection:
            record = reviews.next_one(connection, at=at)
        if record is None:
            return None
        with writing(engine) as connection:
            if reviews.hold(connection, record.id, name, at=at):
                return int(record.id, 16)


def test_what_one_looks_at_no_other_gets_for_some_minutes(engine: Engine) -> None:
    queued(engine, unsure(1, "10", "40", 0.1), unsure(2, "10", "40", 0.2))
    assert [taken(engine, name) for name in ("anne", "rita", "carl")] == [1, 2, None]
    assert taken(engine, "carl", NOW + reviews.HELD - timedelta(seconds=1)) is None
    assert taken(engine, "carl", NOW + reviews.HELD) == 1


def test_what_one_looks_at_is_found_again_until_it_is_over(engine: Engine) -> None:
    queued(engine, unsure(1, "10", "40", 0.1), unsure(2, "10", "40", 0.2))
    assert taken(engine, "anne") == 1

    def held(name: str, at: datetime) -> str | None:
        with reading(engine) as connection:
            record = reviews.held(connection, name, at=at)
        return None if record is None else record.id

    assert held("anne", NOW) == f"{1:032x}"
    assert held("anne", NOW + reviews.HELD) is None
    assert held("rita", NOW) is None
    looked_at(engine, f"{1:032x}")
    assert held("anne", NOW) is None


def test_what_somebody_lets_go_is_there_for_others(engine: Engine) -> None:
    queued(engine, unsure(1, "10", "40", 0.1), unsure(2, "10", "40", 0.2))
    assert taken(engine, "anne") == 1
    with writing(engine) as connection:
        reviews.release(connection, f"{1:032x}", "rita")  # who does not have it
    assert taken(engine, "rita") == 2
    with writing(engine) as connection:
        reviews.release(connection, f"{1:032x}", "anne")
    assert taken(engine, "carl") == 1


@pytest.mark.parametrize("sent", ["before", "while"])
def test_a_product_that_was_sent_twice_is_held_as_one(engine: Engine, sent: str) -> None:
    one, again = (unsure(number, "10", "40", 0.1 * number, input_hash="a" * 64) for number in (1, 2))
    queued(engine, one, *([again] if sent == "before" else []))
    assert taken(engine, "anne") == 1
    if sent == "while":
        queued(engine, again)
    assert taken(engine, "rita") is None
    with writing(engine) as connection:
        reviews.put_off(connection, one.id)
        reviews.release(connection, one.id, "anne")
    assert taken(engine, "rita") == 1


def test_what_has_been_looked_at_meanwhile_is_given_to_nobody(engine: Engine) -> None:
    queued(engine, unsure(1, "10", "40", 0.1))
    looked_at(engine, f"{1:032x}")
    with writing(engine) as connection:
        assert not reviews.hold(connection, f"{1:032x}", "rita", at=NOW)


def test_reviewers_at_once_never_get_the_same(engine: Engine) -> None:
    """Neither the same prediction nor another one of the same product."""
    products, reviewers = 20, 6
    queued(
        engine,
        *(
            unsure(2 * number + copy, "10", "40", 0.01 * number, input_hash=f"{number:064x}")
            for number in range(products)
            for copy in range(2)
        ),
    )
    together = threading.Barrier(reviewers)

    def work(name: str) -> list[int]:
        together.wait(30)
        found: list[int] = []
        while (number := taken(engine, name)) is not None:
            found.append(number // 2)
            if len(found) % 2:  # others stay held
                looked_at(engine, f"{number:032x}", name)
        return found

    with ThreadPoolExecutor(reviewers) as threads:
        found = [one for those in threads.map(work, "abcdef"[:reviewers]) for one in those]
    assert sorted(found) == list(range(products))


def test_the_next_one_is_found_by_the_index(tmp_path: Path) -> None:
    """Not by reading whatever waits."""
    engine = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    migrate(engine)
    asked: list[tuple[str, Any]] = []
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
    with reading(engine) as connection:
        reviews.next_one(connection, at=NOW)
        plans = [
            str(step)
            for statement, values in asked.copy()
            if "doubt" in statement
            for step in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
        ]
    engine.dispose()
    assert any("SEARCH reviews USING COVERING INDEX ix_reviews_waiting (lane=?" in step for step in plans)
    assert not any("SCAN reviews" in step for step in plans)

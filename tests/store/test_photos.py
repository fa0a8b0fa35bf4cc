"""Photos of the review queue in the database: how long they stay, and how much room they have; on both engines."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Engine
from tests.store.conftest import NOW
from tests.store.test_records import RECORD
from tests.store.test_reviews import looked_at, queued, unsure

from aisle.store import photos, predictions
from aisle.store.engine import reading, writing
from aisle.store.photos import Photo

IDS = [f"{number:032x}" for number in range(1, 5)]


def photographed(engine: Engine, size: int = 100) -> None:
    """Four products that wait, each a minute younger than the one before."""
    queued(engine, *(unsure(number, "10", "40", 0.1) for number in range(1, 5)))
    with writing(engine) as connection:
        photos.add(connection, [Photo(one, NOW + timedelta(minutes=n), bytes(size)) for n, one in enumerate(IDS)])


def left(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        return sorted(photos.there(connection, IDS))


def test_a_photo_is_found_by_its_prediction(engine: Engine) -> None:
    photographed(engine)
    with reading(engine) as connection:
        assert photos.find(connection, IDS[0]) == bytes(100)
        assert photos.find(connection, "f" * 32) is None


def test_a_photo_that_nobody_needs_is_not_kept(engine: Engine) -> None:
    """Of a product that is not in the queue, or has been looked at; a second one of the same is none."""
    queued(engine, unsure(1, "10", "40", 0.1), unsure(2, "10", "40", 0.1))
    looked_at(engine, IDS[1])
    for _ in range(2):
        with writing(engine) as connection:
            photos.add(connection, [Photo(one, NOW, b"x") for one in IDS])
    assert left(engine) == IDS[:1]


def test_a_photo_goes_with_its_prediction(engine: Engine) -> None:
    photographed(engine)
    with writing(engine) as connection:
        predictions.delete_older(connection, than=RECORD.created_at + timedelta(days=1))
    assert left(engine) == []


def test_the_oldest_make_room(engine: Engine) -> None:
    photographed(engine)
    with writing(engine) as connection:
        assert photos.trim(connection, 400) == 0
        assert photos.trim(connection, 399) == 1
        assert photos.trim(connection, 250) == 1
    assert left(engine) == IDS[2:]
    with writing(engine) as connection:
        assert photos.trim(connection, 0) == 2


def test_what_has_been_looked_at_loses_its_photo_when_the_last_word_is_old(engine: Engine) -> None:
    photographed(engine)
    looked_at(engine, IDS[0])
    with writing(engine) as connection:
        assert photos.delete_looked_at(connection, before=NOW) == 0
        assert photos.delete_looked_at(connection, before=NOW + timedelta(seconds=1)) == 1
    assert left(engine) == IDS[1:]

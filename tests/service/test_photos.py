"""A small photo is kept of what a person should look at, beside the service, and no longer than it is needed."""

from __future__ import annotations

import asyncio
import io
import itertools
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from prometheus_client import REGISTRY
from tests.auth.conftest import SetClock
from tests.service.conftest import Service, Starter

from aisle.catalog import Decision
from aisle.clock import utc_now
from aisle.service import photos as making
from aisle.service.batching import BatchingQueue
from aisle.service.photos import SHARE, SIDE, Photos
from aisle.service.recorder import FORGET_EVERY, PHOTOS_STAY, Recorder
from aisle.store import photos, predictions, reviews
from aisle.store.engine import reading, writing
from aisle.store.photos import Photo
from aisle.store.predictions import Feedback, PredictionRecord

EXIF = Image.Exif()
EXIF[0x010F] = "a camera of Anne"


def outcomes(name: str) -> float:
    return REGISTRY.get_sample_value("aisle_review_photos_total", {"outcome": name}) or 0.0


def predicted(service: Service, title: str, image: bytes) -> dict[str, Any]:
    """What is said of a product, once all that it leaves is in the database."""
    response = service.post("/predict", data={"designation": title}, files={"image": ("a.jpg", image, "image/jpeg")})
    assert response.status_code == 200, response.text
    parts = service.client.app.state.parts  # type: ignore[attr-defined]
    assert service.client.portal is not None
    service.client.portal.call(parts.photos.idle.wait)
    assert parts.recorder.flush()
    found: dict[str, Any] = response.json()
    return found


def kept(service: Service, prediction_id: str) -> bytes | None:
    with reading(service.engine) as connection:
        return photos.find(connection, prediction_id)


def drawn() -> bytes:
    """A photo of nothing in particular, from a camera that says whose it is."""
    out = io.BytesIO()
    Image.effect_noise((700, 500), 40).convert("RGB").save(out, "JPEG", exif=EXIF.tobytes())
    return out.getvalue()


def waiting(service: Service, *numbers: int) -> list[PredictionRecord]:
    """Products that wait in the queue, like one that was predicted."""
    told = predicted(service, "Modèle", drawn())
    with reading(service.engine) as connection:
        like = predictions.find(connection, told["prediction_id"])
    assert like is not None
    records = [
        replace(like, id=f"{number:032x}", input_hash=f"{number:064x}", decision=Decision.REVIEW)
        for number in numbers
    ]
    with writing(service.engine) as connection:
        predictions.add(connection, records)
        reviews.enqueue(connection, records)
    return records


def test_of_what_a_person_should_look_at_a_small_photo_is_kept_and_nothing_else_of_the_file(service: Service) -> None:
    told = predicted(service, "Modèle", drawn())
    jpeg = kept(service, told["prediction_id"])
    assert told["decision"] == "review"
    assert jpeg is not None
    assert b"camera" not in jpeg
    assert Image.open(io.BytesIO(jpeg)).size == (SIDE, round(SIDE * 5 / 7))


def test_of_what_is_accepted_no_photo_is_kept(
    service: Service, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.champion.predictor, "threshold", 0.0)
    told = predicted(service, "Piscine", photo)
    assert told["decision"] == "accept"
    assert kept(service, told["prediction_id"]) is None


def test_none_is_kept_where_none_is_wanted(start_service: Starter) -> None:
    service = start_service(review_photos_mib=0)
    told = predicted(service, "Modèle", drawn())
    assert told["decision"] == "review"
    assert kept(service, told["prediction_id"]) is None


def test_no_photo_is_made_while_a_prediction_is(service: Service, photo: bytes) -> None:
    async def work() -> None:
        queue = BatchingQueue(service.champion, size=1, batch=1, seconds=1)
        busy = Photos(queue, Recorder(service.engine, keep=timedelta(1)), wanted=True, clock=utc_now)
        queue.idle.clear()
        busy.start()
        busy.keep("f" * 32, photo)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(busy.idle.wait(), 0.3)
        queue.idle.set()
        await asyncio.wait_for(busy.idle.wait(), 30)
        await busy.stop()
        await queue.stop()

    asyncio.run(work())


def test_what_is_too_much_goes_without_a_photo_and_is_counted(
    service: Service, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "MOST_WAITING_BYTES", len(photo))
    queue = service.client.app.state.parts.queue  # type: ignore[attr-defined]
    recorder = Recorder(service.engine, keep=timedelta(1))
    before = outcomes("dropped")
    busy = Photos(queue, recorder, wanted=True, clock=utc_now)
    for _ in range(2):
        busy.keep("f" * 32, photo)
    assert outcomes("dropped") - before == 1
    away = Photos(queue, recorder, wanted=True, clock=utc_now)
    recorder.is_away = True
    away.keep("f" * 32, photo)
    assert outcomes("dropped") - before == 2


def test_a_damaged_image_does_not_hold_up_the_next_one(service: Service, photo: bytes) -> None:
    before = outcomes("damaged"), outcomes("made")

    async def work() -> None:
        queue = BatchingQueue(service.champion, size=1, batch=1, seconds=1)
        making_them = Photos(queue, Recorder(service.engine, keep=timedelta(1)), wanted=True, clock=utc_now)
        making_them.start()
        for image in (photo[:200], photo):
            making_them.keep("f" * 32, image)
        await asyncio.wait_for(making_them.idle.wait(), 30)
        await making_them.stop()
        await queue.stop()

    asyncio.run(work())
    assert (outcomes("damaged") - before[0], outcomes("made") - before[1]) == (1, 1)


def test_after_each_photo_the_predictions_have_the_time_to_themselves(
    service: Service, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    clock = itertools.count(step=2)  # a photo takes two seconds
    monkeypatch.setattr(making, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    async def work() -> None:
        queue = BatchingQueue(service.champion, size=1, batch=1, seconds=1)
        recorder = Recorder(service.engine, keep=timedelta(1))
        making_them = Photos(queue, recorder, wanted=True, clock=utc_now, rest=rest)
        making_them.start()
        making_them.keep("f" * 32, photo)
        await asyncio.wait_for(making_them.idle.wait(), 30)
        await making_them.stop()
        await queue.stop()

    asyncio.run(work())
    assert rests == [pytest.approx(2 * (1 / SHARE - 1))]


def test_all_photos_together_have_so_much_room(start_service: Starter) -> None:
    service = start_service()
    records = waiting(service, *range(1, 6))
    clock = SetClock()
    recorder = Recorder(service.engine, keep=timedelta(days=365), photo_bytes=250, clock=clock)
    for record in records:
        clock.advance(minutes=1)
        recorder.record(Photo(record.id, clock(), bytes(100)))
        assert recorder.flush()
    assert [kept(service, record.id) is not None for record in records] == [False, False, False, True, True]


def test_a_photo_goes_some_time_after_the_last_word_on_its_product(start_service: Starter) -> None:
    service = start_service()
    [record] = waiting(service, 1)
    clock = SetClock()
    clock.now = utc_now()  # the service's own recorder forgets by this one
    recorder = Recorder(service.engine, keep=timedelta(days=365), photo_bytes=1 << 20, clock=clock)
    recorder.record(Photo(record.id, clock(), b"a photo"))
    assert recorder.flush()
    with writing(service.engine) as connection:
        predictions.add_feedback(connection, Feedback(record.id, clock(), "anne", "10"))
        reviews.looked_at(connection, record.id)
    recorder.forget()
    assert kept(service, record.id)
    clock.advance(hours=(PHOTOS_STAY + FORGET_EVERY) / timedelta(hours=1))
    recorder.forget()
    assert kept(service, record.id) is None

"""The record of predictions, written beside the service so that no answer waits for the disk.

Records gather in memory and are stored together. While the database is away they wait; beyond `MOST_WAITING` the
oldest are dropped, and a metric says so. What a process that is killed had gathered, less than a second's, is lost.
"""

from __future__ import annotations

import threading
from collections import deque
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from aisle.clock import Clock, utc_now
from aisle.errors import ServiceMissing
from aisle.logs import get_logger
from aisle.service.metrics import RECORDS
from aisle.store import experiments, photos, predictions, reviews
from aisle.store.engine import writing
from aisle.store.experiments import Shadowed
from aisle.store.photos import Photo
from aisle.store.predictions import PredictionRecord

MOST_WAITING = 20_000
Record = PredictionRecord | Shadowed | Photo
AT_ONCE = 500
EVERY_SECONDS = 0.2
RETRY_SECONDS = 5.0
FORGET_EVERY = timedelta(hours=1)
PHOTOS_STAY = timedelta(hours=1)
"""After the last word on a product: until then somebody may want to take it back."""
TRIM_SHARE = 0.01
"""Of the bytes that photos may have: after so many more, the oldest have to make room."""


class Recorder:
    """Records from any thread, one thread that writes, in their order. `keep` is how long a record stays,
    `photo_bytes` how much room all photos have together.

    What a challenger said of a product, and its photo, are recorded after the prediction that they belong to.
    """

    def __init__(self, engine: Engine, *, keep: timedelta, photo_bytes: int = 0, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._keep = keep
        self._photo_bytes = photo_bytes
        self._new_photo_bytes = 0
        self._clock = clock
        self._waiting: deque[Record] = deque(maxlen=MOST_WAITING)
        self._writing = threading.Lock()
        self._stopping = threading.Event()
        self._forgot: datetime | None = None
        self.is_away = False
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, once, and end."""
        self._stopping.set()
        self._thread.join()
        self.flush()

    def record(self, record: Record) -> None:
        if len(self._waiting) == MOST_WAITING:
            RECORDS.labels("dropped").inc()
        self._waiting.append(record)

    def flush(self) -> bool:
        """Store what waits; False when the database is away, and everything still waits."""
        with self._writing:
            while self._waiting:
                some = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
                if not self._store(some):
                    return False
        return True

    def _work(self) -> None:
        while not self._stopping.wait(RETRY_SECONDS if self.is_away else EVERY_SECONDS):
            if self.flush():
                self.forget()

    def _store(self, records: list[Record]) -> bool:
        try:
            with writing(self._engine) as connection:
                predicted = [one for one in records if isinstance(one, PredictionRecord)]
                predictions.add(connection, predicted)
                reviews.enqueue(connection, predicted)
                experiments.add_shadowed(connection, [one for one in records if isinstance(one, Shadowed)])
                self._add_photos(connection, [one for one in records if isinstance(one, Photo)])
        except ServiceMissing as error:
            if not self.is_away:
                get_logger(__name__).error("predictions not recorded, they wait", reason=str(error))
            self.is_away = True
            room = MOST_WAITING - len(self._waiting)
            self._waiting.extendleft(reversed(records[-room:] if room else []))
            return False
        except SQLAlchemyError as error:  # a record that no database takes must not hold up the others
            return self._store_each(records, error)
        self.is_away = False
        RECORDS.labels("stored").inc(len(records))
        return True

    def _add_photos(self, connection: Connection, taken: list[Photo]) -> None:
        photos.add(connection, taken)
        self._new_photo_bytes += sum(len(one.jpeg) for one in taken)
        if self._new_photo_bytes > TRIM_SHARE * self._photo_bytes:
            photos.trim(connection, self._photo_bytes)
            self._new_photo_bytes = 0

    def _store_each(self, records: list[Record], error: SQLAlchemyError) -> bool:
        if len(records) > 1:
            outcomes = [self._store([record]) for record in records]  # each is tried, or it would be lost
            return all(outcomes)
        RECORDS.labels("refused").inc()
        get_logger(__name__).error(
            "prediction not recorded", record=repr(records[0])[:60], reason=type(error).__name__
        )
        return True

    def forget(self) -> None:
        """Delete what is older than may be kept, at most once an hour."""
        now = self._clock()
        if self._forgot is not None and now - self._forgot < FORGET_EVERY:
            return
        self._forgot = now
        try:
            with writing(self._engine) as connection:
                gone = predictions.delete_older(connection, than=now - self._keep)
                photos.delete_looked_at(connection, before=now - PHOTOS_STAY)
                photos.trim(connection, self._photo_bytes)
        except (ServiceMissing, SQLAlchemyError) as error:
            get_logger(__name__).warning("old predictions not deleted", reason=type(error).__name__)
        else:
            if gone:
                get_logger(__name__).info("old predictions deleted", count=gone)

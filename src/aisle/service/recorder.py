"""The record of predictions, written beside the service so that no answer waits for the disk.

Records gather in memory and are stored together. While the database is away they wait; beyond `MOST_WAITING` the
oldest are dropped, and a metric says so. What a process had gathered that is killed is in its journal, and another
one stores it; what a challenger said and photos are not, and of these less than a second's is lost.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from aisle.clock import Clock, utc_now
from aisle.errors import ServiceMissing
from aisle.logs import get_logger
from aisle.service.journal import Abandoned, Journal
from aisle.service.metrics import JOURNAL, RECORDS
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
ADOPT_SECONDS = 5.0
"""Between two looks for journals of processes that were killed."""
FORGET_EVERY = timedelta(hours=1)
PHOTOS_STAY = timedelta(hours=1)
"""After the last word on a product: until then somebody may want to take it back."""
TRIM_SHARE = 0.01
"""Of the bytes that photos may have: after so many more, the oldest have to make room."""


class Recorder:
    """Records from any thread, one thread that writes, in their order. `keep` is how long a record stays,
    `photo_bytes` how much room all photos have together. Without a `journal` a kill loses what waits.

    What a challenger said of a product, and its photo, are recorded after the prediction that they belong to.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        keep: timedelta,
        photo_bytes: int = 0,
        journal: Journal | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self._engine = engine
        self._keep = keep
        self._photo_bytes = photo_bytes
        self._new_photo_bytes = 0
        self._journal = journal
        self._clock = clock
        self._waiting: deque[Record] = deque(maxlen=MOST_WAITING)
        self._adding = threading.Lock()
        """Held for what goes into the journal and into memory, or it would be taken for stored while it waits."""
        self._writing = threading.Lock()
        self._adopted: float | None = None
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
        if self._journal is not None:
            self._journal.close()

    def record(self, record: Record) -> None:
        """An answer may go out once this is over."""
        with self._adding:
            if self._journal is not None and isinstance(record, PredictionRecord):
                self._journal.append(record)
            if len(self._waiting) == MOST_WAITING:
                RECORDS.labels("dropped").inc()
            self._waiting.append(record)

    def is_on_its_way(self, prediction_id: str) -> bool:
        """Whether a record that is not in the database will be: another process has it, or had it when it died."""
        return self._journal is not None and self._journal.holds(prediction_id)

    def flush(self) -> bool:
        """Store what waits now; False when the database is away, and everything still waits."""
        with self._writing:
            with self._adding:
                if self._journal is not None:
                    self._journal.turn()
                left = len(self._waiting)
            while left > 0:
                some = [self._waiting.popleft() for _ in range(min(AT_ONCE, left))]
                left -= len(some)
                if not self._store(some):
                    return False
            if self._journal is not None:
                self._journal.done()
        return True

    def adopt(self) -> None:
        """Store what processes that were killed had written to their journals."""
        if self._journal is None:
            return
        for journal in self._journal.abandoned():
            if not self._stored(journal):
                return  # it stays, and is read again: what is stored already is not stored twice
            journal.remove()
            if journal.records:
                JOURNAL.labels("replayed").inc(len(journal.records))
                get_logger(__name__).warning("records of a process that was killed", count=len(journal.records))

    def _stored(self, journal: Abandoned) -> bool:
        for first in range(0, len(journal.records), AT_ONCE):
            self._waiting.extend(journal.records[first : first + AT_ONCE])
            if not self.flush():
                return False
        return True

    def _work(self) -> None:
        while not self._stopping.wait(RETRY_SECONDS if self.is_away else EVERY_SECONDS):
            try:
                if self.flush():
                    self._adopt_now_and_then()
                    self.forget()
            except Exception as error:  # noqa: BLE001  the next round is to come, or nothing is stored any more
                get_logger(__name__).error("predictions not recorded", reason=type(error).__name__, exc_info=error)

    def _adopt_now_and_then(self) -> None:
        if self._adopted is None or time.monotonic() - self._adopted > ADOPT_SECONDS:
            self._adopted = time.monotonic()
            self.adopt()

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

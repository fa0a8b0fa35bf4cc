"""The record of predictions, written beside the service so that no answer waits for the disk.

Records gather in memory and are stored together. While the database is away they wait; beyond `MOST_WAITING` the
oldest are dropped, and a metric says so. What a process that is killed had gathered, less than a second's, is lost.
"""

from __future__ import annotations

import threading
from collections import deque
from datetime import datetime, timedelta

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from aisle.clock import Clock, utc_now
from aisle.errors import ServiceMissing
from aisle.logs import get_logger
from aisle.service.metrics import RECORDS
from aisle.store import experiments, predictions
from aisle.store.engine import writing
from aisle.store.experiments import Shadowed
from aisle.store.predictions import PredictionRecord

MOST_WAITING = 20_000
Record = PredictionRecord | Shadowed
AT_ONCE = 500
EVERY_SECONDS = 0.2
RETRY_SECONDS = 5.0
FORGET_EVERY = timedelta(hours=1)


class Recorder:
    """Records from any thread, one thread that writes, in their order. `keep` is how long a record stays.

    What a challenger said of a product is recorded after the prediction that it belongs to.
    """

    def __init__(self, engine: Engine, *, keep: timedelta, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._keep = keep
        self._clock = clock
        self._waiting: deque[Record] = deque(maxlen=MOST_WAITING)
        self._writing = threading.Lock()
        self._stopping = threading.Event()
        self._forgot: datetime | None = None
        self._is_away = False
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
        while not self._stopping.wait(RETRY_SECONDS if self._is_away else EVERY_SECONDS):
            if self.flush():
                self.forget()

    def _store(self, records: list[Record]) -> bool:
        try:
            with writing(self._engine) as connection:
                predictions.add(connection, [one for one in records if isinstance(one, PredictionRecord)])
                experiments.add_shadowed(connection, [one for one in records if isinstance(one, Shadowed)])
        except ServiceMissing as error:
            if not self._is_away:
                get_logger(__name__).error("predictions not recorded, they wait", reason=str(error))
            self._is_away = True
            room = MOST_WAITING - len(self._waiting)
            self._waiting.extendleft(reversed(records[-room:] if room else []))
            return False
        except SQLAlchemyError as error:  # a record that no database takes must not hold up the others
            return self._store_each(records, error)
        self._is_away = False
        RECORDS.labels("stored").inc(len(records))
        return True

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
        except (ServiceMissing, SQLAlchemyError) as error:
            get_logger(__name__).warning("old predictions not deleted", reason=type(error).__name__)
        else:
            if gone:
                get_logger(__name__).info("old predictions deleted", count=gone)

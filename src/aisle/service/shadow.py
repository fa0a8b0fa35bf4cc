"""The challenger is shown what the champion answered: after the answer, beside the traffic, and never at its cost.

What is shown waits until no prediction waits or is computed; when more than a few wait already, a product is dropped.
The challenger's process computes when no other process wants the processor.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection

from aisle.catalog import Prediction, Product, TypeChanges
from aisle.service.aside import Aside, NotReady
from aisle.service.batching import BatchingQueue
from aisle.service.metrics import SHADOW_AGREEMENT, SHADOW_PREDICTIONS
from aisle.service.recorder import Recorder
from aisle.store.experiments import Shadowed
from aisle.store.predictions import PredictionRecord

MOST_WAITING = 8


class Shadow:
    """Start it and stop it in the event loop that predicts.

    The champion's types are followed by `changes` to what they are in the challenger's table. Where one of the two
    then names a type that the other does not know, nothing is said about agreement.
    """

    def __init__(
        self,
        challenger: Aside,
        queue: BatchingQueue,
        recorder: Recorder,
        *,
        champion_types: Collection[str],
        changes: TypeChanges = TypeChanges(),
    ) -> None:
        self._challenger = challenger
        self._changes = changes
        self._common = challenger.types.keys() & {changes.now(code) for code in champion_types}
        self._queue = queue
        self._recorder = recorder
        self._waiting: deque[tuple[Product, PredictionRecord]] = deque()
        self._something = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._worker = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Of a challenger that is closed; what still waits is given up."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        SHADOW_PREDICTIONS.labels("dropped").inc(len(self._waiting))
        self._waiting.clear()

    def show(self, product: Product, record: PredictionRecord) -> None:
        """A product, and the record of what the champion said of it, which is on its way to the database."""
        if len(self._waiting) >= MOST_WAITING:
            SHADOW_PREDICTIONS.labels("dropped").inc()
            return
        self._waiting.append((product, record))
        self._something.set()

    async def _work(self) -> None:
        while True:
            await self._something.wait()
            await self._queue.idle.wait()
            product, record = self._waiting.popleft()
            if not self._waiting:
                self._something.clear()
            [said], seconds = await self._challenger.timed([product])
            self._keep(record, said, seconds)

    def _keep(self, record: PredictionRecord, said: Prediction | Exception, seconds: float | None) -> None:
        if isinstance(said, NotReady):
            SHADOW_PREDICTIONS.labels("dropped").inc()
            return
        prediction = said if isinstance(said, Prediction) else None
        agrees, champion_said = None, self._changes.now(record.predicted)
        if prediction is not None and {prediction.type.code, champion_said} <= self._common:
            agrees = prediction.type.code == champion_said
        self._recorder.record(
            Shadowed(
                prediction_id=record.id,
                experiment_id=record.experiment_id or 0,
                input_hash=record.input_hash,
                predicted=prediction.type.code if prediction else None,
                confidence=prediction.confidence if prediction else None,
                agrees=agrees,
                seconds=seconds if prediction else None,
                champion_seconds=record.seconds or 0.0,
                error=None if prediction else str(said),
            )
        )
        SHADOW_PREDICTIONS.labels("computed" if prediction else "error").inc()
        if agrees is not None:
            SHADOW_AGREEMENT.labels("yes" if agrees else "no").inc()

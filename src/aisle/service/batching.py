"""The queue before the model: what waits is computed in batches, off the event loop.

Nobody waits for a batch to fill: while one is computed, the next one gathers. A batch is a third of what waits: all
of it and whoever comes meanwhile wait for its end, so that of a long queue much is won by a large batch, and of a
short one nothing. The queue is bounded, and a request whose time is over is not computed.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from aisle.catalog import Product
from aisle.errors import InputError
from aisle.model.predictor import Outcome
from aisle.service.champion import Champion
from aisle.service.metrics import BATCH_SIZE, NOT_COMPUTED, QUEUE_DEPTH, QUEUE_INSIDE

PART = 3
"""A batch is this part of what waits. In queues that were reckoned through, with 1 to 3 ms for a batch and 15 for a
product, the 99th percentile is then within 4 % of the lowest that any part gives; in batches of all that waits it is
up to a quarter higher, one by one up to twice as high."""


class QueueFull(Exception):
    """As many requests are inside as may be."""


class TooLate(Exception):
    """The prediction waited longer than it may."""


@dataclass(frozen=True)
class _Waiting:
    product: Product
    deadline: float
    answer: asyncio.Future[Outcome]


class Batching(ABC):
    """Start it and stop it in the event loop that predicts.

    `size` requests may be inside, from when their body is read; a prediction may wait `seconds`; at most `batch` are
    computed together, and `least` where as many wait. It is `idle` while nothing waits or is computed.
    """

    def __init__(self, *, size: int, batch: int, seconds: float, least: int = 1) -> None:
        self._size = size
        self._batch = batch
        self._least = least
        self._seconds = seconds
        self._inside = 0
        self._waiting: deque[_Waiting] = deque()
        self._something = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self._worker: asyncio.Task[None] | None = None

    @abstractmethod
    async def outcomes(self, products: Sequence[Product]) -> Sequence[Outcome | Exception]:
        """What is said of each product of a batch; never raises for one of them."""

    @property
    def is_full(self) -> bool:
        return self._inside >= self._size

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place inside, to be taken before a request's body is read. Raises QueueFull at once."""
        if self.is_full:
            NOT_COMPUTED.labels("queue_full").inc()
            raise QueueFull
        self._inside += 1
        QUEUE_INSIDE.inc()
        try:
            yield
        finally:
            self._inside -= 1
            QUEUE_INSIDE.dec()

    def start(self) -> None:
        self._worker = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """End; what still waits is given up."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for waiting in self._waiting:
            waiting.answer.cancel()
        QUEUE_DEPTH.dec(len(self._waiting))
        self._waiting.clear()

    async def predict(self, product: Product) -> Outcome:
        """For whoever has a place. Raises TooLate when nobody came to it in time."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(product, loop.time() + self._seconds, loop.create_future())
        self._waiting.append(waiting)
        QUEUE_DEPTH.inc()
        self.idle.clear()
        self._something.set()
        return await waiting.answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._something.wait()
            batch = self._take(loop.time)
            if batch:
                await self._compute(batch)
            if not self._waiting:
                self._something.clear()
                self.idle.set()

    def _given_up(self, reason: str) -> None:
        NOT_COMPUTED.labels(reason).inc()

    def _take(self, now: Callable[[], float]) -> list[_Waiting]:
        batch: list[_Waiting] = []
        wanted = min(self._batch, max(self._least, math.ceil(len(self._waiting) / PART)))
        while self._waiting and len(batch) < wanted:
            waiting = self._waiting.popleft()
            QUEUE_DEPTH.dec()
            if waiting.answer.done():  # whoever asked has gone
                self._given_up("gone")
            elif waiting.deadline < now():
                self._given_up("too_late")
                waiting.answer.set_exception(TooLate())
            else:
                batch.append(waiting)
        return batch

    async def _compute(self, batch: list[_Waiting]) -> None:
        BATCH_SIZE.observe(len(batch))
        try:
            outcomes = await self.outcomes([waiting.product for waiting in batch])
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.answer.cancel()
            raise
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(outcome, Exception) and not isinstance(outcome, InputError):
                waiting.answer.set_exception(outcome)
            else:
                waiting.answer.set_result(outcome)


class BatchingQueue(Batching):
    """The queue before the champion, which looks at images on so many `threads`: a batch has one for each."""

    def __init__(self, champion: Champion, *, size: int, batch: int, seconds: float, threads: int = 1) -> None:
        super().__init__(size=size, batch=batch, seconds=seconds, least=threads)
        self._champion = champion
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="predict")

    async def stop(self) -> None:
        await super().stop()
        self._thread.shutdown()

    async def outcomes(self, products: Sequence[Product]) -> Sequence[Outcome | Exception]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._predict, products)

    def _predict(self, products: Sequence[Product]) -> list[Outcome | Exception]:
        with self._champion.lend() as predictor:
            try:
                return [*predictor.predict(products)]
            except Exception as error:  # noqa: BLE001  a product that breaks the model must not break its neighbours
                if len(products) == 1:
                    return [error]
                return [one for product in products for one in self._predict([product])]

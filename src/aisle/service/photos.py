"""A small photo of each product that a person should look at, made beside the service: no answer waits for one.

What came waits until no prediction waits or is computed, and then takes a small share of the time: a client that asks
one product after the other always leaves such a moment. When too much waits, as on a service that is asked for more
than it can, or while the database is away, a product goes without a photo, and a metric says so.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from fastapi.concurrency import run_in_threadpool

from aisle.clock import Clock
from aisle.errors import ImageError
from aisle.inputs.image import small_photo
from aisle.logs import get_logger
from aisle.service.batching import Batching
from aisle.service.metrics import PHOTOS
from aisle.service.recorder import Recorder
from aisle.store.photos import Photo

MOST_WAITING_BYTES = 32 << 20
SHARE = 0.02
"""Of the time, at most: some three photos a second, which is more than people look at."""
SIDE = 375
"""Pixels: about as wide as a page shows it, and about 15 KB. It is 6/8 of the 500 that shops' images have, which a
JPEG is decoded to at once; 384 was decoded to 438 and then resized, in twice the time."""


class Photos:
    """Start it and stop it in the event loop that predicts. Without `wanted` it makes none."""

    def __init__(
        self,
        queue: Batching,
        recorder: Recorder,
        *,
        wanted: bool,
        clock: Clock,
        rest: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._queue = queue
        self._recorder = recorder
        self._wanted = wanted
        self._clock = clock
        self._rest = rest
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._bytes = 0
        self._something = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._worker = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """What still waits is given up."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        PHOTOS.labels("dropped").inc(len(self._waiting))
        self._waiting.clear()

    def keep(self, prediction_id: str, image: bytes) -> None:
        """The image of a product whose record is on its way to the database."""
        if not self._wanted:
            return
        if self._recorder.is_away or self._bytes + len(image) > MOST_WAITING_BYTES:
            PHOTOS.labels("dropped").inc()
            return
        self._waiting.append((prediction_id, image))
        self._bytes += len(image)
        self.idle.clear()
        self._something.set()

    async def _work(self) -> None:
        while True:
            await self._something.wait()
            await self._queue.idle.wait()
            prediction_id, image = self._waiting.popleft()
            self._bytes -= len(image)
            started = time.perf_counter()
            await run_in_threadpool(self._take, prediction_id, image)
            if not self._waiting:
                self._something.clear()
                self.idle.set()
            await self._rest((time.perf_counter() - started) * (1 / SHARE - 1))

    def _take(self, prediction_id: str, image: bytes) -> None:
        try:
            self._recorder.record(Photo(prediction_id, self._clock(), small_photo(image, SIDE)))
        except ImageError:  # no model looks at images, or it would have been refused
            PHOTOS.labels("damaged").inc()
        except Exception as error:  # noqa: BLE001  whatever is in an image, the next one is to come
            PHOTOS.labels("damaged").inc()
            get_logger(__name__).error("no photo made", reason=type(error).__name__, exc_info=error)
        else:
            PHOTOS.labels("made").inc()

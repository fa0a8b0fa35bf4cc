"""Explanations, one at a time: each costs as much as fifty predictions, which are to go on meanwhile."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from aisle.catalog import Product, ProductTypes
from aisle.model.explain import Explanation, explain
from aisle.service.batching import TooLate
from aisle.service.champion import Champion


class Explaining:
    """By the champion, whoever is asked for predictions beside it. A request may wait `seconds` for its turn."""

    def __init__(self, champion: Champion, *, seconds: float) -> None:
        self._champion = champion
        self._seconds = seconds
        self._turn = asyncio.Semaphore(1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain")

    @property
    def is_busy(self) -> bool:
        return self._turn.locked()

    async def explain(self, product: Product) -> tuple[Explanation, ProductTypes]:
        """With the types that it speaks of. Raises TooLate, and InputError as `explain` does."""
        try:
            await asyncio.wait_for(self._turn.acquire(), self._seconds)
        except TimeoutError:
            raise TooLate from None
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._explain, product)
        finally:
            self._turn.release()

    def stop(self) -> None:
        self._thread.shutdown()

    def _explain(self, product: Product) -> tuple[Explanation, ProductTypes]:
        with self._champion.lend() as predictor:
            return explain(predictor, product), predictor.bundle.types()

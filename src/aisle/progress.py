"""Progress of long work: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from aisle.logs import get_logger

T = TypeVar("T")

LINE_EVERY_SECONDS = 10.0


class Progress:
    """Counts `unit`s of `total` (None: unknown) done, with the rate and the time left.

    >>> with Progress("reading", total=3, unit="rows") as progress:
    ...     progress.add(3)
    """

    def __init__(
        self,
        label: str,
        *,
        total: int | None = None,
        unit: str = "rows",
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self._clock = clock
        self._start = self._last_line = clock()
        self._at_start = done
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm  # noqa: PLC0415  only a terminal needs it

            self._bar = tqdm(
                desc=label, total=total, initial=done, unit=f" {unit}", unit_scale=unit == "B", leave=False
            )

    def add(self, count: int = 1) -> None:
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._clock() - self._last_line >= LINE_EVERY_SECONDS:
            self._last_line = self._clock()
            get_logger(__name__).info(self.label, **self._figures())

    def _figures(self) -> dict[str, object]:
        seconds = max(self._clock() - self._start, 1e-9)
        rate = (self.done - self._at_start) / seconds
        figures: dict[str, object] = {"done": self.done, "unit": self.unit, "per_second": round(rate, 1)}
        if self.total is not None:
            figures["total"] = self.total
            if rate > 0:
                figures["seconds_left"] = round((self.total - self.done) / rate)
        return figures

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def track(items: Iterable[T], label: str, *, total: int | None = None, unit: str = "rows") -> Iterator[T]:
    """Yield `items` one by one and show how far the reader of them has come."""
    with Progress(label, total=total, unit=unit) as progress:
        for item in items:
            yield item
            progress.add()

"""Leaving without losing a request: first not ready, then no new connections, then gone.

On SIGTERM a service says on `/readyz` that it is going and goes on answering for a while, each time asking for the
connection to be closed, so that whoever balances the load has turned away before the port closes. A second SIGTERM,
or Ctrl-C, skips the while.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from aisle.logs import get_logger


class Draining:
    """`has_begun` tells `/readyz` and the answers; `seconds` is the while."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.has_begun = False

    @contextlib.contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """Put the while before what SIGTERM does now. Elsewhere than in the main thread: nothing."""
        loop = asyncio.get_running_loop()
        before: Any = signal.getsignal(signal.SIGTERM)

        def on_signal(number: int, frame: FrameType | None) -> None:
            # In the loop, not here: here it may be in the middle of writing the log, and would wait for itself.
            loop.call_soon_threadsafe(begin, number)

        def begin(number: int) -> None:
            if not callable(before):
                return
            if self.has_begun:
                before(number, None)
                return
            self.has_begun = True
            get_logger(__name__).info("draining", seconds=self.seconds)
            loop.call_later(self.seconds, before, number, None)

        try:
            signal.signal(signal.SIGTERM, on_signal)
        except ValueError:  # not the main thread: whoever started the service stops it
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

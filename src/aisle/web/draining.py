"""Leaving without losing a request: first not ready, then no new connections, then gone.

On SIGTERM a service says on `/readyz` that it is going and goes on answering for a while, each time asking for the
connection to be closed, so that whoever balances the load has turned away before the port closes. A second SIGTERM,
or Ctrl-C, skips the while.

Who balances without asking `/readyz`, or shares the port, still connects at the very moment when the port closes. The
kernel would accept such a connection for a service that no longer does, and reset it with the request in it, which
nobody may send again. So the port first stops hearing: `turn_away`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from aisle.logs import get_logger

SETTLE_SECONDS = 0.2
"""Between `turn_away` and the port's closing: connections under way are accepted, and say what they want."""

_SO_ATTACH_FILTER = 26
# Linux's classic packet filter, see Documentation/networking/filter.rst: code, jump if true, jump if false, operand.
_DROP_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


def turn_away(listening: socket.socket) -> None:
    """Hear no new connection on a TCP port from now on, and neither accept nor refuse it.

    Whoever connects asks again a second later, and is refused by then, or heard by another who shares the port. In
    both cases no request was sent, so that any may be sent elsewhere. Elsewhere than on Linux: nothing.
    """
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in _DROP_SYN))
    with contextlib.suppress(OSError):  # a sandbox that has no filters
        listening.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(_DROP_SYN), ctypes.addressof(program))
        )


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

"""A process: it ends with the one that started it, gives back what it needs no more, and shares its time out."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import sys
import threading
from collections.abc import Callable


def follow_parent(end: Callable[[], object]) -> None:
    """Have `end` called, in a thread, once the process that started this one is gone: nobody else would stop it."""

    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            end()

    threading.Thread(target=follow, name="follow parent", daemon=True).start()


_M_MMAP_THRESHOLD = -3  # of glibc, see mallopt(3)
_LARGE = 4 << 20


def give_back_memory() -> None:
    """Have what is larger than a few megabytes go back to the system as soon as it is free, from now on.

    Each thread would keep its own, up to 32 MB a piece: after some large images a service kept 1.8 GB for nothing.
    Elsewhere than with glibc: nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


TURN_SECONDS = 0.0005
"""At 95 requests a second the 99th percentile was 58 ms, with Python's 5 ms 73 to 79; 0.1 and 2 ms were no better."""


def take_turns_often() -> None:
    """Let a thread that wants the interpreter have it soon, whatever another one computes in Python: an event loop
    that answers people beside a model. Python's own 5 ms are as long as a prediction, and each step of the loop may
    wait for them."""
    sys.setswitchinterval(TURN_SECONDS)


def pass_over_what_is_there() -> None:
    """Have the garbage collector look no more at what a process has by now: modules, routes, a model.

    Or all of a service stops now and then, for the 100 ms that it takes to go through 170,000 objects which stay.
    What is there is freed by its last reference all the same, a cycle of it is not.
    """
    gc.collect()
    gc.freeze()

"""The challenger in a process of its own: it may crash, hang or grow, and the service goes on without it.

    aside = Aside(path, threads=1, seconds=5)
    aside.start()                    # the bundle is loaded there, and gave its known answer
    [outcome] = aside.predict([product])

Whoever does not answer within `seconds` is killed. A process that has ended is started again while nobody waits for
it; until then every product is one that the challenger failed at. In the background it computes when no other process
wants to; in any case it is the first to be killed when memory runs out.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aisle.catalog import Prediction, Product, ProductType
from aisle.errors import BundleError, InputError
from aisle.logs import get_logger

START_SECONDS = 120
"""To load a bundle on a machine that has other things to do."""
STDERR = 2


class ChallengerFailed(Exception):
    """It has nothing to say of a product, and why."""


class NotReady(ChallengerFailed):
    """Its process is being started again."""


class Aside:
    """`predict` and `timed` are for one thread at a time, `close` for any."""

    def __init__(self, path: Path, *, threads: int, seconds: float, in_background: bool = False) -> None:
        self._command = [sys.executable, "-m", __name__, str(path), str(threads), str(int(in_background))]
        self._path = path
        self._seconds = seconds
        self._lock = threading.Lock()
        self._is_closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._restarting: threading.Thread | None = None
        self._not_started: str | None = None
        self.types: Mapping[str, ProductType] = {}

    def start(self) -> None:
        """Raises BundleError with the challenger's words where it is not fit to serve."""
        here, there = socket.socketpair()
        with there:
            # Its own session: whoever interrupts the service at a terminal interrupts the service alone.
            process = subprocess.Popen(  # noqa: S603
                self._command, stdin=there.fileno(), stdout=STDERR, start_new_session=True
            )
        seconds, microseconds = divmod(max(int(self._seconds * 1e6), 1), 10**6)  # 0 would be for ever
        for direction in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            here.setsockopt(socket.SOL_SOCKET, direction, struct.pack("ll", seconds, microseconds))
        connection = Connection(here.detach())
        try:
            self.types = self._greeted(process, connection)
        except BaseException:
            _end(process)
            raise
        with self._lock:
            self._process, self._connection = process, connection
        if self._is_closed:
            self.close()

    def predict(self, products: Sequence[Product]) -> list[Prediction | Exception]:
        """ChallengerFailed for a product that it failed at, InputError for one that it cannot use."""
        return self.timed(products)[0]

    def timed(self, products: Sequence[Product]) -> tuple[list[Prediction | Exception], float | None]:
        """The same, and the seconds of processor time that it took, None where it did not answer."""
        connection = self._connection
        if connection is None:
            reason, self._not_started = self._not_started, None
            self._restart()
            failure = ChallengerFailed(reason) if reason else NotReady("it is being started again")
            return [failure] * len(products), None
        try:
            connection.send(list(products))
            answers, seconds = connection.recv()
        except (OSError, EOFError) as error:
            late = isinstance(error, BlockingIOError)
            reason = f"no answer within {self._seconds:g} s" if late else "its process has ended"
            self._drop(reason)
            return [ChallengerFailed(reason)] * len(products), None
        return [_outcome(one) for one in answers], seconds

    @contextlib.contextmanager
    def lend(self) -> Iterator[Aside]:
        """As a champion is lent."""
        yield self

    def close(self) -> None:
        self._is_closed = True
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            _end(process)

    def _greeted(self, process: subprocess.Popen[bytes], connection: Connection) -> Mapping[str, ProductType]:
        """The types that it knows."""
        if not connection.poll(START_SECONDS):
            raise BundleError(f"it is not ready within {START_SECONDS} s", where=self._path)
        try:
            refusal, types = connection.recv()
        except (OSError, EOFError):
            _end(process)
            reason = f"its process ends while it is loaded, with code {process.returncode}"
            raise BundleError(reason, where=self._path) from None
        if refusal is not None:
            raise BundleError(refusal, where=self._path)
        found: Mapping[str, ProductType] = types
        return found

    def _drop(self, reason: str) -> None:
        with self._lock:
            process, self._process, self._connection = self._process, None, None
        if process is not None:
            _end(process)
        if not self._is_closed:
            get_logger(__name__).error("challenger lost", path=str(self._path), reason=reason)
            self._restart()

    def _restart(self) -> None:
        if self._is_closed or (self._restarting is not None and self._restarting.is_alive()):
            return
        self._restarting = threading.Thread(target=self._start_again, name="challenger", daemon=True)
        self._restarting.start()

    def _start_again(self) -> None:
        try:
            self.start()
        except (BundleError, OSError) as error:
            get_logger(__name__).error("challenger not started again", reason=str(error))
            self._not_started = str(error)


def _outcome(answer: Prediction | str | None) -> Prediction | Exception:
    if answer is None:
        return InputError("there is nothing that the challenger can use")
    return ChallengerFailed(answer) if isinstance(answer, str) else answer


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


# What follows runs in the process of the challenger.


def main(path: str, threads: str, in_background: str) -> None:
    _prefer_others(in_background=in_background == "1")
    connection, inbox = Connection(0), queue.SimpleQueue[list[Product]]()
    from aisle.model.bundle import label_of  # noqa: PLC0415  the service's side does not need what predicts
    from aisle.model.known_answer import load_checked  # noqa: PLC0415

    try:
        predictor = load_checked(Path(path), threads=int(threads))
    except Exception as error:  # noqa: BLE001  whatever a bundle brings
        connection.send((str(error), {}))
        return
    table = predictor.bundle.types()
    types = {code: label_of(table, code) for code in (*table, *predictor.classifier.codes)}
    connection.send((None, types))
    threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    while True:
        products = inbox.get()
        started = time.process_time()
        answers = _answers(predictor, products)
        connection.send((answers, time.process_time() - started))


def _receive(connection: Connection, inbox: queue.SimpleQueue[list[Product]]) -> None:
    """End with the service, whatever is being computed."""
    try:
        while True:
            inbox.put(connection.recv())
    except (OSError, EOFError):
        os._exit(0)


def _answers(predictor: Any, products: Sequence[Product]) -> list[Prediction | str | None]:
    """What it says of each, None where it finds nothing that it can use, and words where it breaks."""
    try:
        outcomes = predictor.predict(products)
    except Exception as error:  # noqa: BLE001  a product that breaks the model must not break its neighbours
        if len(products) == 1:
            return [f"{type(error).__name__}: {error}"]
        return [answer for product in products for answer in _answers(predictor, [product])]
    return [None if isinstance(one, InputError) or one.image_error is not None else one for one in outcomes]


def _prefer_others(*, in_background: bool) -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if in_background:
        with contextlib.suppress(AttributeError, OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        os.nice(19)


if __name__ == "__main__":
    main(*sys.argv[1:])

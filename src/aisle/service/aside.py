"""The challenger in a process of its own: it may crash, hang or grow, and the service goes on without it.

    aside = Aside(path, threads=1, seconds=5)
    await aside.start()                    # the bundle is loaded there, and gave its known answer
    [outcome] = await aside.predict([product])

Whoever does not answer within `seconds` is killed. A process that has ended is started again while nobody waits for
it; until then every product is one that the challenger failed at. In the background it computes when no other process
wants to; in any case it is the first to be killed when memory runs out.

Both sides send pickles over a pair of sockets that nobody else has: the process is this very program.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aisle.catalog import Prediction, Product, ProductType
from aisle.errors import BundleError, InputError
from aisle.logs import get_logger
from aisle.service.batching import Batching

START_SECONDS = 120
"""To load a bundle on a machine that has other things to do."""
PAUSE_SECONDS = 2
"""Before the next attempt to start one that could not be started again."""
STDERR = 2
LENGTH = struct.Struct("!Q")


class ChallengerFailed(Exception):
    """It has nothing to say of a product, and why."""


class NotReady(ChallengerFailed):
    """Its process is being started again, or was ended by the service."""


class Aside:
    """For one event loop, and one call at a time; `close` may be called during another one."""

    def __init__(self, path: Path, *, threads: int, seconds: float, in_background: bool = False) -> None:
        self._command = [sys.executable, "-m", __name__, str(path), str(threads), str(int(in_background))]
        self._path = path
        self._seconds = seconds
        self._is_closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._line: _Line | None = None
        self._is_ready = False
        self._restarting: asyncio.Task[None] | None = None
        self._not_started: str | None = None
        self.types: Mapping[str, ProductType] = {}

    async def start(self) -> None:
        """Raises BundleError with the challenger's words where it is not fit to serve."""
        here, there = socket.socketpair()
        self._process = process = await asyncio.to_thread(self._open, there)
        self._line = line = await _Line.over(here)
        try:
            async with asyncio.timeout(START_SECONDS):
                refusal, types = await line.receive()
        except TimeoutError:
            refusal, types = f"it is not ready within {START_SECONDS} s", {}
        except (OSError, EOFError):
            self._kill()
            refusal, types = f"its process ends while it is loaded, with code {process.returncode}", {}
        except BaseException:
            self._kill()
            raise
        if refusal is not None:
            self._kill()
            raise BundleError(refusal, where=self._path)
        self._is_ready, self.types = True, types

    async def predict(self, products: Sequence[Product]) -> list[Prediction | Exception]:
        """ChallengerFailed for a product that it failed at, InputError for one that it cannot use."""
        said, _ = await self.timed(products)
        return said

    async def timed(self, products: Sequence[Product]) -> tuple[list[Prediction | Exception], float | None]:
        """The same, and the seconds of processor time that it took, None where it did not answer."""
        if self._line is None or not self._is_ready:
            reason, self._not_started = self._not_started, None
            self._restart()
            failure = ChallengerFailed(reason) if reason else NotReady("it is being started again")
            return [failure] * len(products), None
        try:
            async with asyncio.timeout(self._seconds):
                answers, seconds = await self._line.ask(list(products))
        except TimeoutError:
            return self._lost(products, f"no answer within {self._seconds:g} s")
        except (OSError, EOFError):
            return self._lost(products, "its process has ended")
        except BaseException:
            self._kill()  # half an answer may be on the way
            raise
        return [_outcome(one) for one in answers], seconds

    def close(self) -> None:
        self._is_closed = True
        if self._restarting is not None:
            self._restarting.cancel()
        self._kill()

    def _open(self, there: socket.socket) -> subprocess.Popen[bytes]:
        with there:
            # A group of its own: whoever interrupts the service at a terminal interrupts the service alone. And no
            # session of its own: Linux shares the processor out among sessions, and priorities count only inside.
            return subprocess.Popen(self._command, stdin=there.fileno(), stdout=STDERR, process_group=0)  # noqa: S603

    def _kill(self) -> None:
        process, line, self._process, self._line = self._process, self._line, None, None
        self._is_ready = False
        if line is not None:
            line.close()
        if process is not None:
            process.kill()
            process.wait()

    def _lost(self, products: Sequence[Product], reason: str) -> tuple[list[Prediction | Exception], None]:
        self._kill()
        if self._is_closed:
            return [NotReady("it is not wanted any more")] * len(products), None
        get_logger(__name__).error("challenger lost", path=str(self._path), reason=reason)
        self._restart()
        return [ChallengerFailed(reason)] * len(products), None

    def _restart(self) -> None:
        if not self._is_closed and (self._restarting is None or self._restarting.done()):
            self._restarting = asyncio.create_task(self._start_again())

    async def _start_again(self) -> None:
        try:
            await self.start()
        except (BundleError, OSError) as error:
            get_logger(__name__).error("challenger not started again", reason=str(error))
            self._not_started = str(error)
            await asyncio.sleep(PAUSE_SECONDS)


class ChallengerQueue(Batching):
    """The queue before a challenger."""

    def __init__(self, challenger: Aside, *, size: int, batch: int, seconds: float) -> None:
        super().__init__(size=size, batch=batch, seconds=seconds)
        self._challenger = challenger

    async def outcomes(self, products: Sequence[Product]) -> Sequence[Prediction | Exception]:
        return await self._challenger.predict(products)

    def _given_up(self, reason: str) -> None:
        """The champion answers: it is not given up."""


class _Line:
    """Objects over a socket, the service's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, here: socket.socket) -> _Line:
        return cls(*await asyncio.open_unix_connection(sock=here))

    async def ask(self, value: object) -> Any:
        data = pickle.dumps(value)
        self._writer.write(LENGTH.pack(len(data)) + data)
        await self._writer.drain()
        return await self.receive()

    async def receive(self) -> Any:
        """Raises EOFError, as `asyncio.IncompleteReadError` is one, where the other end is closed."""
        (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
        return pickle.loads(await self._reader.readexactly(length))  # noqa: S301

    def close(self) -> None:
        self._writer.close()


def _outcome(answer: Prediction | str | None) -> Prediction | Exception:
    if answer is None:
        return InputError("there is nothing that the challenger can use")
    return ChallengerFailed(answer) if isinstance(answer, str) else answer


# What follows runs in the process of the challenger.


def main(path: str, threads: str, in_background: str) -> None:
    _prefer_others(in_background=in_background == "1")
    threading.Thread(target=_end_with_the_service, daemon=True).start()
    service = socket.socket(fileno=0)
    received = service.makefile("rb")
    from aisle.model.bundle import label_of  # noqa: PLC0415  the service's side does not need what predicts
    from aisle.model.known_answer import load_checked  # noqa: PLC0415

    try:
        predictor = load_checked(Path(path), threads=int(threads))
    except Exception as error:  # noqa: BLE001  whatever a bundle brings
        _send(service, (str(error), {}))
        return
    table = predictor.bundle.types()
    types = {code: label_of(table, code) for code in (*table, *predictor.classifier.codes)}
    _send(service, (None, types))
    while head := received.read(LENGTH.size):
        (length,) = LENGTH.unpack(head)
        products = pickle.loads(received.read(length))  # noqa: S301
        started = time.process_time()
        answers = _answers(predictor, products)
        _send(service, (answers, time.process_time() - started))


def _send(service: socket.socket, value: object) -> None:
    data = pickle.dumps(value)
    service.sendall(LENGTH.pack(len(data)) + data)


def _answers(predictor: Any, products: Sequence[Product]) -> list[Prediction | str | None]:
    """What it says of each, None where it finds nothing that it can use, and words where it breaks."""
    try:
        outcomes = predictor.predict(products)
    except Exception as error:  # noqa: BLE001  a product that breaks the model must not break its neighbours
        if len(products) == 1:
            return [f"{type(error).__name__}: {error}"]
        return [answer for product in products for answer in _answers(predictor, [product])]
    return [None if isinstance(one, InputError) or one.image_error is not None else one for one in outcomes]


def _end_with_the_service() -> None:
    """Whatever is being computed: the other end of the socket is closed when the service ends, however it does."""
    watching = select.poll()
    watching.register(0, select.POLLHUP)
    watching.poll()
    os._exit(0)


def _prefer_others(*, in_background: bool) -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if in_background:
        with contextlib.suppress(AttributeError, OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        os.nice(19)


if __name__ == "__main__":
    main(*sys.argv[1:])

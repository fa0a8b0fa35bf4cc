"""Serving an application with uvicorn: in this process, or in several that share the port."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors.multiprocess import Multiprocess

from aisle.errors import UsageError
from aisle.logs import get_logger
from aisle.settings import override
from aisle.web.draining import SETTLE_SECONDS, turn_away

KEEP_ALIVE_SECONDS = 75
"""Longer than a proxy keeps an idle connection (nginx: 60 s), or it sends a request to one that just closed."""
STOP_SECONDS = 20
"""How long requests that are under way may take to end when a service stops; less after a long drain."""
EXIT_SECONDS = 30
"""From being told to stop until the process is gone, as the platform is promised."""
CLOSING_SECONDS = 5
"""What is left of that for turning connections away, the last records, and a service beside."""
BESIDE_STOP_SECONDS = 2
"""How long requests of a service beside may take: it goes on answering until the other one has stopped."""
START_SECONDS = 60
MAX_HEAD_BYTES = 256 << 10
"""Of a request that has not come to its body. What the system hands over at once may be as long."""


@dataclass(frozen=True)
class Address:
    """Where to listen, and the setting that names the port; `shared` lets other processes listen there as well."""

    host: str
    port: int
    setting: str
    shared: bool = False


class _Connection(HttpToolsProtocol):
    """uvicorn's, which a stopping server would close although it was accepted just now and is about to ask, and whose
    parser would keep a head of any length."""

    _head: int | None = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head is None or self.transport.is_closing():
            return
        self._head += len(data)
        if self._head > MAX_HEAD_BYTES:
            self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        self._head = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head = 0
        super().on_message_complete()

    def shutdown(self) -> None:
        self.loop.call_later(SETTLE_SECONDS, super().shutdown)


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for one in sockets or []:
            turn_away(one)
        await asyncio.sleep(SETTLE_SECONDS)
        await super().shutdown(sockets)


class _Workers(Multiprocess):
    """uvicorn's, told how long its workers drain: the port is theirs together, so none of them may turn it away.

    uvicorn asks each worker whether it is well and waits `START_SECONDS` for the word. Of one that is killed
    meanwhile it would wait in vain, replace nobody, and not hear that it is to stop: it keeps the worker's end of the
    line open itself. Closed here, the line breaks when the worker dies.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], *, drain_seconds: float) -> None:
        super().__init__(config, sockets)
        self.drain_seconds = drain_seconds

    def keep_subprocess_alive(self) -> None:
        for one in self.processes:
            one.child_conn.close()  # the worker has its own, since it was started
        super().keep_subprocess_alive()

    def terminate_all(self) -> None:
        super().terminate_all()
        time.sleep(max(self.drain_seconds - SETTLE_SECONDS, 0))
        for one in self.sockets:
            turn_away(one)


def serve_app(app: FastAPI, address: Address, *, drain_seconds: float, what: str, **details: object) -> None:
    """Say that `what` is served where, with `details`, and serve until the process is told to stop.

    `drain_seconds` is how long the application drains. Raises UsageError when the address is taken.
    """
    with _listening(address) as listening:
        server = _Server(_config(app, _stop_seconds(drain_seconds)))
        with contextlib.suppress(ValueError):  # not the main thread: whoever started it stops it
            signal.signal(signal.SIGTERM, server.handle_exit)
        get_logger(__name__).info(what, url=_url(listening), **details)
        server.run(sockets=[listening])


@contextlib.contextmanager
def serve_beside(app: FastAPI, address: Address, *, what: str) -> Iterator[str]:
    """Serve in a thread for as long as the context lasts; its value is the service's URL. Raises UsageError."""
    with _listening(address) as listening:
        server = _Server(_config(app, BESIDE_STOP_SECONDS))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name=what)
        get_logger(__name__).info(what, url=_url(listening))
        thread.start()
        try:
            yield _url(listening)
        finally:
            server.should_exit = True
            thread.join()


def serve_in_workers(
    factory: str, address: Address, *, workers: int, drain_seconds: float, what: str, **details: object
) -> None:
    """Serve the application that `factory` ("module:function") makes, in `workers` processes.

    A worker that dies is replaced; SIGHUP replaces all, one after the other. Raises UsageError as `serve_app`.
    """
    with _listening(address) as listening, tempfile.TemporaryDirectory(prefix="aisle-metrics-") as folder:
        override(prometheus_multiproc_dir=folder)  # the workers inherit it before they import prometheus_client
        config = _config(
            factory,
            _stop_seconds(drain_seconds),
            workers=workers,
            factory=True,
            timeout_worker_healthcheck=START_SECONDS,
        )
        get_logger(__name__).info(what, url=_url(listening), workers=workers, **details)
        _Workers(config, [listening], drain_seconds=drain_seconds).run()


def _stop_seconds(drain_seconds: float) -> int:
    return min(STOP_SECONDS, int(EXIT_SECONDS - CLOSING_SECONDS - drain_seconds))


def _config(app: FastAPI | str, stop_seconds: int, **more: object) -> uvicorn.Config:
    # proxy_headers would let uvicorn rewrite the peer's address before the settings can say whom to believe.
    return uvicorn.Config(
        app,
        http=_Connection,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=stop_seconds,
        **more,  # type: ignore[arg-type]
    )


@contextlib.contextmanager
def _listening(address: Address) -> Iterator[socket.socket]:
    try:
        listening = socket.create_server((address.host, address.port), backlog=2048, reuse_port=address.shared)
    except OSError as error:
        hint = f"{address.setting} sets another port, 0 takes any free one."
        where = f"{address.host}:{address.port}"
        raise UsageError(f"cannot listen on {where}: {error.strerror}", hint=hint) from None
    with listening:
        # Connections inherit it. asyncio would set it only on a socket that names its protocol, and an answer in two
        # packets would wait 40 ms for the first one's acknowledgement.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

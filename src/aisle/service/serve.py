"""Serving a bundle over HTTP with uvicorn."""

from __future__ import annotations

import contextlib
import signal
import socket

import uvicorn

from aisle.errors import UsageError
from aisle.logs import get_logger
from aisle.model.bundle import Bundle
from aisle.model.predictor import Predictor
from aisle.service.app import create_app
from aisle.settings import Settings


def serve(bundle: Bundle, settings: Settings) -> None:
    """Serve until the process is told to stop. Raises UsageError when the address is taken."""
    listening = _listen(settings.serve_host, settings.port)
    host, port = listening.getsockname()[:2]
    with Predictor(bundle, threads=settings.threads) as predictor:
        config = uvicorn.Config(
            create_app(predictor),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=25,
        )
        server = uvicorn.Server(config)
        with contextlib.suppress(ValueError):  # not the main thread: whoever started it stops it
            # uvicorn hands SIGTERM on once it has stopped; being told to stop is no failure here.
            signal.signal(signal.SIGTERM, server.handle_exit)
        get_logger(__name__).info("serving", url=f"http://{host}:{port}", model_version=bundle.version)
        server.run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=2048)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            hint="PORT sets another port, 0 takes any free one.",
        ) from None

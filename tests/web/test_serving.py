"""Heads that never end; and processes that share a port, of which one that dies is replaced, whenever it dies."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import uvicorn
from fastapi import FastAPI
from tests.service.processes import wait_for
from uvicorn.supervisors import multiprocess as supervising

from aisle.web.serving import MAX_HEAD_BYTES, START_SECONDS, Address, _Workers, serve_beside

SERVE = """
from aisle.web.serving import Address, serve_in_workers
serve_in_workers("tiny:app", Address("127.0.0.1", 0, "PORT"), workers=2, drain_seconds=0, what="serving")
"""
APP = """
from fastapi import FastAPI
def app():
    return FastAPI()
"""


def test_a_head_that_never_ends_is_refused_and_no_more_of_it_is_kept() -> None:
    with serve_beside(FastAPI(), Address("127.0.0.1", 0, "PORT"), what="serving") as url:
        host, _, port = url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            with contextlib.suppress(ConnectionError):  # it is refused before all of it is sent
                connection.sendall(b"GET / HTTP/1.1\r\nX-Name: " + b"a" * (2 * MAX_HEAD_BYTES))
            assert connection.recv(12) == b"HTTP/1.1 400"


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[psutil.Process]:
    (tmp_path / "tiny.py").write_text(APP)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2] / "src")])
    process = subprocess.Popen([sys.executable, "-c", SERVE], env=os.environ | {"PYTHONPATH": path})
    try:
        yield psutil.Process(process.pid)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended, and its workers before it
            for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                one.kill()
        process.wait()


def workers(supervisor: psutil.Process) -> list[psutil.Process]:
    return [one for one in supervisor.children() if re.search("spawn_main", " ".join(one.cmdline()))]


@pytest.mark.slow
def test_one_that_is_killed_while_it_starts_keeps_nobody_from_stopping(supervisor: psutil.Process) -> None:
    wait_for(lambda: len(workers(supervisor)) == 2)
    worker = workers(supervisor)[0]
    worker.suspend()
    time.sleep(2)
    worker.kill()
    started = time.monotonic()
    supervisor.send_signal(signal.SIGTERM)
    supervisor.wait(START_SECONDS)
    assert time.monotonic() - started < START_SECONDS / 2


SPAWN = multiprocessing.get_context("spawn")


def asked_and_gone(pipe: Connection) -> None:
    pipe.recv()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def _signals() -> Iterator[None]:
    """The supervisor takes these over."""
    before = {one: signal.getsignal(one) for one in supervising.SIGNALS}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("_signals")
def test_a_worker_that_dies_while_it_is_asked_whether_it_lives_is_replaced_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = uvicorn.Config("never:loaded", workers=1, timeout_worker_healthcheck=600)
    workers = _Workers(config, [], drain_seconds=0)
    dying = supervising.Process(config, [])
    dying.process = SPAWN.Process(target=asked_and_gone, args=(dying.child_conn,))
    dying.start()
    workers.processes = [dying]
    started: list[supervising.Process] = []
    monkeypatch.setattr(supervising.Process, "start", lambda self: started.append(self))  # noqa: PLW0108  it binds
    workers.keep_subprocess_alive()
    assert workers.processes == started != [dying]
    assert dying.exitcode == -signal.SIGKILL

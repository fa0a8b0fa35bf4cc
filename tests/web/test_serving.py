"""Several processes that share a port: one that dies is replaced, whenever it dies."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from tests.service.processes import wait_for

from aisle.web.serving import START_SECONDS

pytestmark = pytest.mark.slow

SERVE = """
from aisle.web.serving import Address, serve_in_workers
serve_in_workers("tiny:app", Address("127.0.0.1", 0, "PORT"), workers=2, drain_seconds=0, what="serving")
"""
APP = """
from fastapi import FastAPI
def app():
    return FastAPI()
"""


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


def is_serving(worker: psutil.Process) -> bool:
    return worker.is_running() and worker.num_threads() > 1 and bool(worker.net_connections())


def replaced(supervisor: psutil.Process, gone: psutil.Process) -> Callable[[], bool]:
    return lambda: len(workers(supervisor)) == 2 and gone not in workers(supervisor)


def test_a_worker_that_is_killed_while_it_is_asked_how_it_is_is_replaced_at_once(supervisor: psutil.Process) -> None:
    wait_for(lambda: len(workers(supervisor)) == 2)
    worker = workers(supervisor)[0]
    worker.suspend()  # from the next half second on it is waited for
    time.sleep(2)
    started = time.monotonic()
    worker.kill()
    wait_for(replaced(supervisor, worker), seconds=START_SECONDS)
    assert time.monotonic() - started < START_SECONDS / 2


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

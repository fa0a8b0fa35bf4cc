"""Workers that share a port: one that goes is replaced."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest
import uvicorn
from uvicorn.supervisors import multiprocess

from aisle.web.serving import _Workers

SPAWN = multiprocessing.get_context("spawn")


def asked_and_gone(pipe: Connection) -> None:
    pipe.recv()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def _signals() -> Iterator[None]:
    """The supervisor takes these over."""
    before = {one: signal.getsignal(one) for one in multiprocess.SIGNALS}
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
    dying = multiprocess.Process(config, [])
    dying.process = SPAWN.Process(target=asked_and_gone, args=(dying.child_conn,))
    dying.start()
    workers.processes = [dying]
    started: list[multiprocess.Process] = []
    monkeypatch.setattr(multiprocess.Process, "start", lambda self: started.append(self))  # noqa: PLW0108  it binds
    workers.keep_subprocess_alive()
    assert workers.processes == started != [dying]
    assert dying.exitcode == -signal.SIGKILL

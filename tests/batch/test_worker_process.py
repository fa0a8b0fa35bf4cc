"""`aisle worker` as a real process: its heartbeat, by which a probe knows that it lives, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from aisle.settings import Settings

pytestmark = pytest.mark.slow

WAIT_SECONDS = 60


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def worker(folder: Path, heartbeat: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker with one process on a database of its own; killed at the end if it still runs."""
    ours = {name.upper() for name in Settings.model_fields}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-m", "aisle", "worker", "--processes", "1", "--heartbeat", str(heartbeat)]
    database = {"DATABASE_URL": f"sqlite:///{folder}/aisle.db"}
    process = subprocess.Popen(command, cwd=folder, env=environment | database, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_a_worker_beats_as_long_as_it_goes_round(tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat"
    with worker(tmp_path, heartbeat):
        wait_for(heartbeat.exists)
        for _ in range(2):
            last = heartbeat.stat().st_mtime_ns
            wait_for(lambda last=last: heartbeat.stat().st_mtime_ns > last)  # type: ignore[misc]


def test_the_heart_of_a_worker_that_hangs_stands_still(tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat"
    with worker(tmp_path, heartbeat) as process:
        wait_for(heartbeat.exists)
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        os.utime(heartbeat, (0, 0))
        assert heartbeat.stat().st_mtime == 0
        process.send_signal(signal.SIGCONT)
        wait_for(lambda: heartbeat.stat().st_mtime > 0)


def test_a_heartbeat_of_before_is_not_taken_for_that_of_a_worker_that_cannot_start(tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat"
    heartbeat.touch()
    (tmp_path / "aisle.db").mkdir()  # where its database would be
    with worker(tmp_path, heartbeat) as process:
        assert process.wait(WAIT_SECONDS) != 0
        assert not heartbeat.exists()


def test_a_worker_that_is_told_to_stop_ends_with_its_processes_and_its_heartbeat(tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat"
    with worker(tmp_path, heartbeat) as process:
        wait_for(heartbeat.exists)
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert process.wait(WAIT_SECONDS) == 0
        assert children
        psutil.wait_procs(children, WAIT_SECONDS)  # the one that cleans up behind the others ends after their parent
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        assert not heartbeat.exists()

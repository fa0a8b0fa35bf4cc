"""A server and all processes that it starts: their processor time and memory, by /proc, and their end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 20


def tree(root: int) -> list[int]:
    """`root` and what descends from it."""
    children: dict[int, list[int]] = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [root]
    for process in found:
        found += children.get(process, ())
    return found


def cpu_seconds(root: int) -> float:
    """Of all that run, and of those that ended and were waited for."""
    ticks = 0
    for process in tree(root):
        if fields := _stat(process):
            ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS


def memory_mb(root: int) -> tuple[float, float]:
    """What is resident now, pages that several share counted once, and the sum of the peaks; millions of bytes."""
    resident = peak = 0
    for process in tree(root):
        with contextlib.suppress(OSError):
            resident += _kilobytes(PROC / str(process) / "smaps_rollup", "Pss")
            peak += _kilobytes(PROC / str(process) / "status", "VmHWM")
    return resident * 1024 / 1e6, peak * 1024 / 1e6


def stop(process: subprocess.Popen[bytes]) -> None:
    """The server and whatever it leaves behind."""
    members = tree(process.pid)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    for one in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    process.wait()
    while any(_is_running(one) for one in members):  # the next one has the core to itself
        time.sleep(0.02)


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """This process runs there meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _is_running(process: int) -> bool:
    fields = _stat(process)
    return bool(fields) and fields[0] != "Z"


def _stat(process: int) -> list[str]:
    """The fields after the name: state, parent, …; none of a process that is no more."""
    try:
        return (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _kilobytes(file: Path, name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)
    return int(match[1]) if match else 0

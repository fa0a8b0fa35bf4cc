"""What a page asks for as a verb of the command line, in a process of its own.

The gate, for one, measures two models on many products, and loads what trains to do so: nothing for a process that
answers requests. A rollback is waited for; what takes longer is the business of `work.py`.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from aisle.console.desk import Desk
from aisle.settings import environment
from aisle.store import audit
from aisle.store.engine import writing

NEEDED = ("matplotlib", "sklearn", "polars")
"""What the gate measures with; an image that only serves is without."""
METRICS = "PROMETHEUS_MULTIPROC_DIR"
LONGEST = 500
LOOK_SECONDS = 0.1
_FOR_A_TERMINAL = re.compile(r" `aisle registry [^`]*`[^`]*$")


def can_measure() -> bool:
    return all(find_spec(name) is not None for name in NEEDED)


def can_write(desk: Desk) -> bool:
    """Whether the bundle store can be changed from here: a cluster may give it to the service to read only."""
    root = desk.store.root
    return os.access(root if root.exists() else Path(), os.W_OK)


async def roll_back(desk: Desk, to: str, *, who: str, reason: str) -> str:
    """Why not; empty: it is done. One step back, however often it is asked for: to the version before this one."""
    words = ("registry", "rollback", "--to", to, "--who", who, "--note", reason)
    with tempfile.TemporaryFile() as said:
        code = await ended(begin(desk, said, *words))
        said.seek(0)
        return last_line(desk, said.read()) if code else ""


def begin(desk: Desk, said: BinaryIO, *words: str) -> subprocess.Popen[bytes]:
    """`aisle WORDS`, on half of the cores; what it says of its work goes to the file `said`.

    Not asyncio's own subprocess: that of uvloop forks, and runs Python between fork and exec, in a process full of
    threads that hold locks.
    """
    return subprocess.Popen(  # noqa: S603
        (sys.executable, "-m", "aisle", *words, "--json"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said,
        env=_environment(desk),
        start_new_session=True,
    )


async def ended(process: subprocess.Popen[bytes]) -> int:
    """The exit code, when there is one."""
    while process.poll() is None:
        await asyncio.sleep(LOOK_SECONDS)
    return process.returncode


def last_line(desk: Desk, said: bytes) -> str:
    """The last that a verb said; the folders by their names alone, as they are nothing to whoever reads a page.

    Nor is a command of the registry, for which the page has a form.
    """
    lines = said.decode(errors="replace").strip().splitlines()
    line = _FOR_A_TERMINAL.sub("", lines[-1].removeprefix("aisle: ")) if lines else ""
    settings = desk.settings
    folders = {"models": settings.models_path, "cache": settings.cache_path, "data": settings.data_path}
    for name, path in sorted(folders.items(), key=lambda one: -len(str(one[1]))):
        line = line.replace(str(path), name)
    return line[:LONGEST]


def _environment(desk: Desk) -> Mapping[str, str]:
    """The service's own, but for its metrics, and half of its cores: requests are answered meanwhile."""
    settings = desk.settings
    return environment(
        without=METRICS,
        database_url=settings.database_url,
        data_path=settings.data_path,
        models_path=settings.models_path,
        cache_path=settings.cache_path,
        logs_path=settings.logs_path,
        threads=max(1, settings.cores // 2),
    )


def record(desk: Desk, who: str, what: str, subject: str, after: Mapping[str, Any]) -> None:
    with writing(desk.engine) as connection:
        audit.record(connection, who=who, what=what, subject=subject, at=desk.clock(), after=after)

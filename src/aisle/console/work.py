"""Long work that a page asks for and that nobody waits for: a verb as a process of its own, one at a time.

What the process says goes to a file that it holds locked as long as it lives: every process of the service sees by it
how the work goes, also one that was started after it. That it was asked for, and how it ended, is in the audit trail.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi.concurrency import run_in_threadpool

from aisle.console import verbs
from aisle.console.desk import Desk
from aisle.errors import CheckFailed, UsageError
from aisle.logs import get_logger

AUDIT, COMPARE, PROMOTE = "labels.audit", "model.compare", "model.promote"
WRITE_THEIR_OWN = (PROMOTE,)
"""The verbs that enter in the audit trail what they did, or why they refused to, whoever asked for it."""
LEARNS = (*verbs.NEEDED, "onnx")
"""What judges labels has to learn; an image that only predicts is without."""
TAIL = 4096
TRIES, BETWEEN_SECONDS = 5, 0.02
_LOGGED = re.compile(r"^\S+Z \[\w+ *\] | +\[aisle[\w.]*\](?= |$)")
_under_way: set[asyncio.Task[None]] = set()


@dataclass(frozen=True, slots=True)
class Work:
    """The last work that was asked for. `line` is the last that it said; `began` seconds as of files.

    `more` is what the audit trail says besides of its being asked for.
    """

    kind: str
    subject: str
    who: str
    at: datetime
    began: float
    is_running: bool
    line: str
    more: Mapping[str, Any]

    def has_failed(self, result: Path) -> bool:
        """Whether it is over, and has not written what it was asked for."""
        try:
            return not self.is_running and result.stat().st_mtime < self.began
        except OSError:
            return not self.is_running


def can_learn() -> bool:
    return all(find_spec(name) is not None for name in LEARNS)


def latest(desk: Desk) -> Work | None:
    try:
        with _file(desk).open("rb") as stream:
            asked = json.loads(stream.readline())
            is_running = not _lock(stream.fileno(), fcntl.LOCK_SH)
            stream.seek(max(stream.tell(), os.fstat(stream.fileno()).st_size - TAIL))
            line = _LOGGED.sub("", verbs.last_line(desk, stream.read()))
        at = datetime.fromisoformat(asked["at"])
        began, more = asked["began"], dict(asked.get("more", {}))
        return Work(asked["kind"], asked["subject"], asked["who"], at, began, is_running, line, more)
    except (OSError, ValueError, KeyError, TypeError):
        return None


async def start(
    desk: Desk, kind: str, subject: str, *words: str, who: str, more: Mapping[str, Any] | None = None
) -> bool:
    """Begin `aisle WORDS`; False: something is under way already. Raises UsageError where nothing can be written."""
    try:
        process = await run_in_threadpool(_begin, desk, kind, subject, words, who, more or {})
    except OSError as error:
        hint = "Work that a page starts needs a CACHE_PATH that the service may write to."
        raise UsageError(f"cannot be begun: {error.strerror}", where=_file(desk), hint=hint) from None
    if process is None:
        return False
    task = asyncio.create_task(_wait(desk, process, kind, subject, who))
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)
    return True


def _begin(
    desk: Desk, kind: str, subject: str, words: tuple[str, ...], who: str, more: Mapping[str, Any]
) -> subprocess.Popen[bytes] | None:
    path = _file(desk)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as said:
        for _ in range(TRIES):
            if _lock(said.fileno(), fcntl.LOCK_EX):
                break
            time.sleep(BETWEEN_SECONDS)  # whoever only looks holds it for a moment, too
        else:
            return None
        asked = {"kind": kind, "subject": subject, "who": who, "at": desk.clock().isoformat()}
        said.truncate(0)
        said.write(json.dumps(asked | {"began": time.time(), "more": more}).encode() + b"\n")
        said.flush()
        verbs.record(desk, who, f"{kind}.ask", subject, more)
        return verbs.begin(desk, said, *words)


async def _wait(desk: Desk, process: subprocess.Popen[bytes], kind: str, subject: str, who: str) -> None:
    code = await verbs.ended(process)
    if not code:
        if kind not in WRITE_THEIR_OWN:
            await run_in_threadpool(verbs.record, desk, who, kind, subject, {})
        return
    found = await run_in_threadpool(latest, desk)
    reason = found.line if found is not None else ""
    get_logger(__name__).warning("what a page asked for failed", verb=kind, subject=subject, reason=reason)
    is_refused = code == CheckFailed.exit_code
    if is_refused and kind in WRITE_THEIR_OWN:
        return
    what = f"{kind}.refuse" if is_refused else f"{kind}.fail"
    await run_in_threadpool(verbs.record, desk, who, what, subject, {"reason": reason})


def _file(desk: Desk) -> Path:
    return desk.settings.cache_path / "console" / "work.log"


def _lock(file: int, kind: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        return True
    return False

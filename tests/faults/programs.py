"""The programs of a shop as a platform runs them: whoever dies is started again, and what they take is measured."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

LOOK_SECONDS = 0.1
MEASURE_SECONDS = 1.0


@dataclass(frozen=True)
class Taken:
    """By a program and its children at one moment: resident bytes, open files, threads."""

    at: float
    memory: int
    files: int
    threads: int


@dataclass
class Program:
    """A command that runs until it is told otherwise; its log is `name`.log in its folder."""

    name: str
    command: list[str]
    folder: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    def start(self) -> None:
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, env=dict(self.environment), stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.starts += 1

    @property
    def has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def family(self) -> list[psutil.Process]:
        """The process and all below it."""
        with contextlib.suppress(psutil.Error):
            if self.process is not None:
                parent = psutil.Process(self.process.pid)
                return [parent, *parent.children(recursive=True)]
        return []

    def workers(self) -> list[psutil.Process]:
        """The processes below it that do its work."""
        found = []
        for one in self.family()[1:]:
            with contextlib.suppress(psutil.Error):
                if "spawn_main" in " ".join(one.cmdline()):
                    found.append(one)
        return found

    def kill(self) -> None:
        """The first process alone: the others have to see for themselves."""
        assert self.process is not None
        self.process.kill()

    def end(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def taken(self) -> Taken:
        memory = files = threads = 0
        for one in self.family():
            with contextlib.suppress(psutil.Error):
                memory += one.memory_info().rss
                files += one.num_fds()
                threads += one.num_threads()
        return Taken(time.monotonic(), memory, files, threads)


@dataclass
class Platform:
    """Starts programs, starts whoever ended again, and measures."""

    programs: list[Program]
    measured: dict[str, list[Taken]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_after, name="platform")

    def __enter__(self) -> Platform:
        for one in self.programs:
            one.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for one in self.programs:
            one.end()

    def __getitem__(self, name: str) -> Program:
        return next(one for one in self.programs if one.name == name)

    @property
    def peak_memory(self) -> int:
        """Of all programs together, each at its own peak."""
        return sum(max(one.memory for one in series) for series in self.measured.values() if series)

    def _look_after(self) -> None:
        measured = 0.0
        while not self._over.wait(LOOK_SECONDS):
            for one in self.programs:
                if one.has_ended:
                    one.start()
            if time.monotonic() - measured >= MEASURE_SECONDS:
                measured = time.monotonic()
                for one in self.programs:
                    self.measured[one.name].append(one.taken())

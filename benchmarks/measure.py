"""What the benchmarks share: timed commands, a place to work in, the file of results, the table.

This module imports nothing heavy: Linux counts the memory of the process that starts a command into the peak of
the command itself, so whoever measures must stay small.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
PATHS = ("DATA_PATH", "MODELS_PATH", "LOGS_PATH", "CACHE_PATH")


class Skipped(Exception):
    """The benchmark cannot run here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Options:
    """`real`: the folder of the real catalogue; `model`: a bundle, or empty; `up_to`: the most generated rows;
    `images`: how many products have one, 0 for all that do.
    """

    real: Path
    model: str = ""
    up_to: int = 100_000
    images: int = 0

    def real_catalogue(self) -> Path:
        if not (self.real / "X_train_update.csv").is_file():
            raise Skipped(f"there is no real catalogue in {self.real}; --real names its folder")
        return self.real.resolve()


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that was measured; its name ends in its unit. A goal is a bound that still counts as met.

    `spread`: the lowest and the highest of what it is the median of; of a ratio of medians, between what it would be
    in nine of ten other sets of rounds.
    """

    name: str
    value: float
    at_most: float | None = None
    at_least: float | None = None
    spread: tuple[float, float] | None = None

    @classmethod
    def of_rounds(
        cls, name: str, values: Sequence[float], *, at_most: float | None = None, at_least: float | None = None
    ) -> Self:
        return cls(name, statistics.median(values), at_most, at_least, (min(values), max(values)))

    @property
    def goal(self) -> str:
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return f">= {self.at_least:g}" if self.at_least is not None else ""

    @property
    def met(self) -> bool:
        too_much = self.at_most is not None and self.value > self.at_most
        return not too_much and (self.at_least is None or self.value >= self.at_least)


@dataclass(frozen=True, slots=True)
class Timed:
    """A command that ended well. `peak_mb`: the largest of its processes, in millions of bytes."""

    seconds: float
    peak_mb: float
    output: str

    def json(self) -> Any:
        return json.loads(self.output)


def timed(command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str] | None = None) -> Timed:
    """Run `command` to its end. Raises RuntimeError with its last words when it fails.

    The peak is `ru_maxrss` of this very command (wait4), where RUSAGE_CHILDREN has that of every one so far.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (output, errors):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{texts[1][-2000:]}")
    return Timed(seconds, usage.ru_maxrss * 1024 / 1e6, texts[0])


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds that each takes, by round. The first round, in which all is still cold, does not count.

    Each round begins with another: what one leaves behind, threads that go on for a while, say, is not always the
    same one's to bear.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(rounds + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            started = time.perf_counter()
            ways[name]()
            if turn:
                taken[name].append(time.perf_counter() - started)
    return taken


class Workplace:
    """A temporary folder in which `aisle` has data, models, cache and logs of its own."""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="aisle-benchmark-")
        self.path = Path(self._folder.name)
        self.raw = self.path / "data_path" / "raw"
        self.environment = {**os.environ, **{name: str(self.path / name.lower()) for name in PATHS}}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def aisle(self, *arguments: str | Path) -> Timed:
        print("  aisle", *arguments, file=sys.stderr, flush=True)
        return timed([executable(), *arguments], cwd=self.path, env=self.environment)


def on_cores(cores: Iterable[int], command: Sequence[str | Path]) -> list[str | Path]:
    """`command` on these cores alone. (A function that runs between fork and exec would run among threads' locks.)"""
    return ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]


def shown(arguments: Sequence[str], *, without: Sequence[str] = ()) -> str:
    """The words of a command for others to repeat: without folders of this machine and the options of `without`."""
    words = list(arguments)
    for option in without:
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    return " ".join(Path(one).name if "/" in one else one for one in words)


def executable() -> Path:
    return Path(sys.executable).with_name("aisle")


def record(
    name: str,
    figures: Sequence[Figure],
    command: str,
    commit: str,
    *,
    results: Path = RESULTS,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Append what was measured to the results of today, and return the entry.

    `commit` is the one that was there when measuring began; `details` says more of how, the spread among it.
    """
    now = datetime.now(UTC)
    spread = {one.name: [_rounded(end) for end in one.spread] for one in figures if one.spread is not None}
    said = {**({"spread": spread} if spread else {}), **(details or {})}
    entry = {
        "name": name,
        "date": now.isoformat(timespec="seconds"),
        "commit": commit,
        "machine": _machine(),
        "command": command,
        "figures": {one.name: _rounded(one.value) for one in figures},
        "goals": {one.name: one.goal for one in figures if one.goal},
        "missed": [one.name for one in figures if not one.met],
        "met": all(one.met for one in figures),
        **({"details": said} if said else {}),
    }
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{now.date().isoformat()}.json"
    entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    path.write_text(json.dumps([*entries, entry], indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return entry


def table(name: str, figures: Sequence[Figure]) -> str:
    """The figures as plain text: name, value, goal, met or missed."""
    rows = [
        (one.name, f"{_rounded(one.value):,}", one.goal, ("met" if one.met else "MISSED") if one.goal else "")
        for one in figures
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"  {figure:<{widths[0]}}  {value:>{widths[1]}}  {goal:<{widths[2]}}  {verdict}".rstrip()
        for figure, value, goal, verdict in rows
    ]
    return "\n".join([name, *lines])


def _rounded(value: float) -> float:
    return round(value, 1 if abs(value) >= 100 else 4)


def commit() -> str:
    """The revision that is checked out, with `+changes` if what measures or is measured differs from it."""
    revision = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--", "src", "benchmarks", ":!benchmarks/results", ":!*.md")
    return f"{revision}+changes" if changed else revision


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *words], check=True, capture_output=True, text=True).stdout.strip()


def _machine() -> dict[str, Any]:
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "arithmetic": arithmetic(next((line for line in lines if line.startswith("flags")), "")),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def arithmetic(flags: str) -> str:
    """Which instructions networks are computed with, widest first, of the processor's flags as Linux lists them.

    Two processors of one name differ in them, and with them by as much as the choice of an engine does.
    """
    known = {"amx_int8": "AMX", "avx512f": "AVX-512", "avx2": "AVX2", "avx512_vnni": "VNNI", "avx_vnni": "VNNI"}
    found = [name for flag, name in known.items() if flag in flags.split()]
    if "AVX-512" in found:
        found.remove("AVX2")
    return ", ".join(dict.fromkeys(found))

"""`make run` on a fresh clone with nothing cached, until `GET /status` answers; then stopped and run once more.

The clone holds what is committed. HOME is empty and pip keeps no cache, so that every package is fetched.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from benchmarks.measure import PATHS, ROOT, Figure, Options

FIRST_GOAL_S, SECOND_GOAL_S = 300, 60
PATIENCE_S = 1200
SERVING = re.compile(r"\bserving\b.*url=(http://\S+)")
OF_THE_CALLER = ("VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", *PATHS)


def run(options: Options) -> list[Figure]:
    del options
    with tempfile.TemporaryDirectory(prefix="aisle-benchmark-") as folder:
        home, clone = Path(folder) / "home", Path(folder) / "aisle"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        env = _environment(home)
        first, second = (_seconds_until_served(clone, env) for _ in range(2))
    return [Figure("first_s", first, at_most=FIRST_GOAL_S), Figure("second_s", second, at_most=SECOND_GOAL_S)]


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in OF_THE_CALLER}
    own = str(Path(sys.executable).parent)
    path = os.pathsep.join(part for part in kept["PATH"].split(os.pathsep) if part != own)
    folders = {"HOME": home, "XDG_CACHE_HOME": home / ".cache", "XDG_CONFIG_HOME": home / ".config"}
    fresh = {name: str(folder) for name, folder in folders.items()}
    return {**kept, **fresh, "PATH": path, "PIP_NO_CACHE_DIR": "1", "PORT": "0"}


def _seconds_until_served(clone: Path, env: Mapping[str, str]) -> float:
    start = time.perf_counter()
    process = subprocess.Popen(
        ["make", "run"],
        cwd=clone,
        env=env,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that make and all it starts can be stopped together
    )
    assert process.stdout is not None
    watchdog = threading.Timer(PATIENCE_S, _stop, [process])
    watchdog.start()
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            print(" ", line.rstrip(), file=sys.stderr, flush=True)
            if found := SERVING.search(line):
                with urllib.request.urlopen(f"{found[1]}/status", timeout=60) as answer:  # noqa: S310
                    answer.read()
                return time.perf_counter() - start
    finally:
        watchdog.cancel()
        _stop(process)
        process.communicate()
    raise RuntimeError(f"make run ended with {process.returncode} before it served:\n{''.join(lines[-20:])}")


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)

"""One contender in one round: started, warmed up, asked by 1 to 64 clients and at 70 % of its most, stopped.

The server has a core of its own, the load the other one. No other contender runs meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

from benchmarks.load import Connections, Outcome, arrive, saturate
from benchmarks.measure import on_cores
from benchmarks.rivals import processes
from benchmarks.rivals.contenders import ENVIRONMENT, Contender
from benchmarks.rivals.products import Shown, requests

SERVER_CORE, LOAD_CORE = 0, 1
CLIENTS = (1, 4, 16, 64)
WARM_CLIENTS = 16
SHARE = 0.7
READY_SECONDS = 180
PROBES, PROBE_STEPS = 5, 300_000
SETTLE_TRIES = 15

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Seconds of the warm-up, of each number of clients, and of the open loop, which goes on until there were enough
    requests to have a 99th percentile."""

    warm: float = 4
    closed: float = 5
    open: float = 15
    least_arrivals: int = 100


@dataclass(frozen=True, slots=True)
class Window:
    """What came of some seconds of load."""

    answered: int
    errors: int
    per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_ms: float

    @classmethod
    def of(cls, outcome: Outcome, cpu: float) -> Window:
        answered = len(outcome.seconds)
        p50, p95, p99 = (1000 * outcome.percentile(one) if answered else float("inf") for one in (0.5, 0.95, 0.99))
        cpu_ms = 1000 * cpu / answered if answered else float("inf")
        errors = outcome.statuses.total() - outcome.statuses[200]
        return cls(answered, errors, answered / outcome.elapsed, p50, p95, p99, cpu_ms)


@dataclass(frozen=True, slots=True)
class Round:
    """`probe_ms`: how long fixed arithmetic took on the server's core just before. `at_share`: the open loop."""

    contender: str
    probe_ms: float
    ready_s: float
    resident_mb: float
    peak_mb: float
    clients: dict[int, Window]
    at_share: Window | None = None

    @property
    def most(self) -> Window:
        return max(self.clients.values(), key=lambda one: one.per_s)


def probe() -> float:
    """Milliseconds of fixed arithmetic on the server's core: longer when something else is at work there."""
    taken = []
    with processes.on_core(SERVER_CORE):
        for _ in range(PROBES):
            started, total = time.perf_counter(), 0
            for step in range(PROBE_STEPS):
                total += step * step % 7
            taken.append(1000 * (time.perf_counter() - started))
    return median(taken)


def settle(probes: Sequence[float]) -> None:
    """Wait for a core that is as quick as it was for half of the `probes`, but not for long.

    What the contender before leaves to the system, a gigabyte of pages, say, takes some seconds.
    """
    for _ in range(SETTLE_TRIES if probes else 0):
        if probe() <= 1.05 * median(probes):
            return
        time.sleep(1)


def bare_round(variables: dict[str, str], lengths: Lengths) -> Round:
    quick = probe()
    started = time.time()
    words = [sys.executable, "-m", "benchmarks.rivals.bare", str(lengths.warm), str(2 * lengths.closed)]
    environment = {**os.environ, **ENVIRONMENT, **variables}
    done = subprocess.run(on_cores([SERVER_CORE], words), env=environment, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    outcome = Outcome(said["seconds"], elapsed=said["elapsed"])
    window = Window.of(outcome, said["cpu"])
    return Round("bare", quick, said["ready"] - started, said["resident_mb"], said["peak_mb"], {1: window})


def served_round(
    contender: Contender, shown: Sequence[Shown], lengths: Lengths, serving: contextlib.AbstractContextManager[Server]
) -> Round:
    quick = probe()
    with serving as server, processes.on_core(LOAD_CORE):
        asked = requests(shown, contender.body, contender.path, server.token)
        ready = server.wait_until_ready(asked[0])
        server.ask(partial(saturate, requests=asked, together=WARM_CLIENTS, seconds=lengths.warm))
        clients = {
            together: server.ask(partial(saturate, requests=asked, together=together, seconds=lengths.closed))
            for together in CLIENTS
        }
        resident, peak = processes.memory_mb(server.process.pid)
        done = Round(contender.name, quick, ready, resident, peak, clients)
        rate = SHARE * done.most.per_s
        gaps = arrivals(rate, max(lengths.open, lengths.least_arrivals / rate))
        return replace(done, at_share=server.ask(partial(arrive, requests=asked, gaps=gaps)))


def arrivals(rate: float, seconds: float) -> list[float]:
    """Seconds between requests that come at random (Poisson), the same sequence for every contender."""
    draw = random.Random(0)  # noqa: S311
    return [draw.expovariate(rate) for _ in range(max(1, int(rate * seconds)))]


@dataclass(frozen=True, slots=True)
class Server:
    process: subprocess.Popen[bytes]
    port: int
    started: float
    log: Path
    token: str = ""

    def wait_until_ready(self, request: bytes) -> float:
        """Seconds from the start to the first answer. Raises RuntimeError when there is none."""
        until = self.started + READY_SECONDS
        while self._ask_one(request) != 200:
            if self.process.poll() is not None or time.perf_counter() > until:
                raise RuntimeError(f"it does not serve:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.02)
        return time.perf_counter() - self.started

    def ask(self, work: Callable[[Connections], Awaitable[Outcome]]) -> Window:
        before = processes.cpu_seconds(self.process.pid)
        outcome = asyncio.run(self._with_connections(work))
        return Window.of(outcome, processes.cpu_seconds(self.process.pid) - before)

    def _ask_one(self, request: bytes) -> int:
        async def ask(connections: Connections) -> int:
            return await connections.ask(request)

        return asyncio.run(self._with_connections(ask))

    async def _with_connections(self, work: Callable[[Connections], Awaitable[T]]) -> T:
        connections = Connections("127.0.0.1", self.port)
        try:
            return await work(connections)
        finally:
            connections.close()


@contextlib.contextmanager
def running(
    contender: Contender, environments: Path, folder: Path, variables: dict[str, str], token: str = ""
) -> Iterator[Server]:
    """The contender's server on its core."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    words = contender.command(contender.programs(environments), port, folder)
    log = folder / "log.txt"
    own = {name: value.format(port=port, next_port=port + 1) for name, value in contender.variables.items()}
    environment = {**os.environ, **ENVIRONMENT, **own, **variables, "PORT": str(port)}
    started = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            on_cores([SERVER_CORE], words),
            cwd=folder, env=environment, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        yield Server(process, port, started, log, token)
    finally:
        processes.stop(process)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port

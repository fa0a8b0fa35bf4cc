"""What a shadow adds to the champion's answers at 30 % load: a service with it beside one without it, in turn.

Both services and the challenger have one core together, the load the other one. The challenger is the champion once
more, so that being shown costs as much as answering. Capacity is what a service answers at its most; requests then
come at 30 % of it, at random (Poisson) and evenly, to the one service and to the other in short rounds, and every
ratio is of two rounds that follow each other.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.load import Connections, Outcome, arrive, saturate
from benchmarks.measure import Figure, Options, Skipped, Workplace
from benchmarks.service import (
    CLIENTS,
    LOAD_CORE,
    Server,
    add_model,
    request_of,
    running_service,
    shown_products,
    token_service,
)

LOAD = 0.3
PAIRS = 24
ROUND_SECONDS = 2.5
GOAL = 1.1
OUTCOMES = ("computed", "dropped", "error")


def run(options: Options) -> list[Figure]:
    if (os.cpu_count() or 1) < 2:
        raise Skipped("the services and their load want a core each")
    real = options.real_catalogue()
    shown = shown_products(real)
    with Workplace() as plain, Workplace() as shadowed, ExitStack() as stack:
        if options.model:
            model = Path(options.model)
        else:
            plain.aisle("import", "--source", real)
            model = Path(plain.aisle("train", "--recipe", "light", "--json").json()["bundle"])
        for place in (plain, shadowed):
            place.aisle("registry", "list")  # makes the folder of the store
            add_model(place, model)
        token, auth_url = stack.enter_context(token_service(plain))
        services = _Services(
            stack.enter_context(running_service(plain, auth_url)),
            stack.enter_context(running_service(shadowed, auth_url)),
        )
        os.sched_setaffinity(0, {LOAD_CORE})
        _start_shadow(shadowed, services.shadowed)
        image = [request_of(one.title, one.image, token) for one in shown]
        text = [request_of(one.title, None, token) for one in shown]
        return [*_measure("image", image, services), *_measure("text", text, services)]


@dataclass(frozen=True, slots=True)
class _Services:
    plain: Server
    shadowed: Server


def _measure(kind: str, requests: Sequence[bytes], services: _Services) -> list[Figure]:
    for server in (services.plain, services.shadowed):  # to warm up
        _ask(server, lambda on: saturate(on, requests, together=CLIENTS, seconds=2))
    most = _ask(services.plain, lambda on: saturate(on, requests, together=CLIENTS, seconds=5))
    rate = LOAD * len(most.seconds) / most.elapsed
    draw, count = random.Random(0), max(10, int(ROUND_SECONDS * rate))  # noqa: S311
    arrivals: dict[str, Callable[[], list[float]]] = {
        "poisson": lambda: [draw.expovariate(rate) for _ in range(count)],
        "evenly": lambda: [1 / rate] * count,
    }
    before = {outcome: _counted(services.shadowed, outcome) for outcome in OUTCOMES}
    figures = [Figure(f"{kind}_requests_per_s", rate)]
    for name, gaps in arrivals.items():
        pairs = []
        for number in range(PAIRS):
            chosen = gaps()  # the same for both
            order = ("plain", "shadowed") if number % 2 else ("shadowed", "plain")
            found = {one: _round(getattr(services, one), requests, chosen) for one in order}
            pairs.append((found["plain"], found["shadowed"]))
        of = f"{kind}_{name}"
        ratios = sorted(beside.p50 / alone.p50 for alone, beside in pairs)
        print(" ", of, "p50 ratios", [round(one, 2) for one in ratios], file=sys.stderr, flush=True)
        figures += [
            Figure(f"{of}_p50_ms", 1000 * median(alone.p50 for alone, _ in pairs)),
            Figure(f"{of}_p50_with_shadow_ms", 1000 * median(beside.p50 for _, beside in pairs)),
            Figure(f"{of}_p50_ratio", median(ratios), at_most=GOAL),
            Figure(f"{of}_p90_ratio", median(beside.p90 / alone.p90 for alone, beside in pairs)),
        ]
    counts = {outcome: _counted(services.shadowed, outcome) - before[outcome] for outcome in OUTCOMES}
    return [*figures, Figure(f"{kind}_share_computed", counts["computed"] / max(1.0, sum(counts.values())))]


@dataclass(frozen=True, slots=True)
class _Round:
    p50: float
    p90: float


def _round(server: Server, requests: Sequence[bytes], gaps: Sequence[float]) -> _Round:
    outcome = _ask(server, lambda on: arrive(on, requests, gaps))
    assert set(outcome.statuses) <= {200, 503}, outcome.statuses  # a machine that others use may be late
    return _Round(outcome.percentile(0.5), outcome.percentile(0.9))


def _ask(server: Server, work: Callable[[Connections], Awaitable[Outcome]]) -> Outcome:
    async def inside() -> Outcome:
        connections = Connections(server.host, server.port)
        try:
            return await work(connections)
        finally:
            connections.close()

    return asyncio.run(inside())


def _start_shadow(place: Workplace, server: Server) -> None:
    from aisle.experiments import run as experiments
    from aisle.settings import Settings

    url = f"sqlite:///{place.path / 'bench.db'}"
    settings = Settings(database_url=url, models_path=place.path / "models_path")
    experiments.start(settings, "shadow", _twin_of_the_champion(place), who="benchmark")
    deadline = time.monotonic() + 60
    while not _metric(server, "aisle_experiment_running"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _counted(server: Server, outcome: str) -> float:
    return _metric(server, f'aisle_shadow_predictions_total{{outcome="{outcome}"}}')


def _metric(server: Server, name: str) -> float:
    with urllib.request.urlopen(f"http://{server.host}:{server.port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name) and line[0] != "#")


def _twin_of_the_champion(place: Workplace) -> str:
    """The version of a bundle that answers as the champion does; its card differs."""
    from aisle.files import sha256_bytes, sha256_json
    from aisle.model.bundle import CARD_FILE, MANIFEST_FILE, Bundle
    from aisle.registry.bundles import BundleStore

    store = BundleStore(place.path / "models_path")
    folder = place.path / "twin"
    shutil.copytree(store.find("champion"), folder)
    card = (folder / CARD_FILE).read_bytes() + b"\nOnce more, as its own challenger.\n"
    (folder / CARD_FILE).write_bytes(card)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["files"][CARD_FILE] = sha256_bytes(card)
    manifest["version"] = sha256_json(manifest["files"])[:12]
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    twin = Bundle.load(folder)
    store.add(twin)
    return twin.version

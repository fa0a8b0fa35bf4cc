"""The prediction service on one core, with the load on another: what it adds to the bare predictor.

Products are a title and its 500 x 500 JPEG, of the real catalogue. The bare predictor looks at them one at a time on
the core of the service, in turn with it: every ratio is of one round, and the median of the rounds counts.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.load import CONNECTION_ERROR, Connections, Outcome, arrive, saturate
from benchmarks.measure import Figure, Options, Skipped, Workplace, executable, on_cores

SERVER_CORE, LOAD_CORE = 0, 1
PRODUCTS = 200
ROUNDS = 5
ROUND_SECONDS = 5.0
LATENCY_SECONDS = 15.0
OVERLOAD_SECONDS = 6.0
CLIENTS = 16
DATABASE = "sqlite:///bench.db"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Shown:
    title: str
    image: bytes


@dataclass
class Server:
    """A service under measurement."""

    process: subprocess.Popen[str]
    host: str
    port: int
    ready_s: float

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def peak_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(match[1]) * 1024 / 1e6 if match else 0.0


def run(options: Options) -> list[Figure]:
    if (os.cpu_count() or 1) < 2:
        raise Skipped("the service and its load want a core each")
    real = options.real_catalogue()
    shown = shown_products(real)
    with Workplace() as place, ExitStack() as stack:
        model = champion_of(place, options, real)
        token, auth_url = stack.enter_context(token_service(place))
        server = stack.enter_context(running_service(place, auth_url))
        return _measure(server, model, shown, token)


def _measure(server: Server, model: Path, shown: Sequence[Shown], token: str) -> list[Figure]:
    os.sched_setaffinity(0, {LOAD_CORE})
    requests = [request_of(one.title, one.image, token) for one in shown]
    texts = [request_of(one.title, None, token) for one in shown]

    def ask(work: Any) -> Outcome:
        async def inside() -> Outcome:
            connections = Connections(server.host, server.port)
            try:
                outcome: Outcome = await work(connections)
                return outcome
            finally:
                connections.close()

        return asyncio.run(inside())

    bare = _Bare(model, shown)
    bare.round()  # both to warm up
    ask(lambda on: saturate(on, requests, together=CLIENTS, seconds=2))
    rounds = []
    for _ in range(ROUNDS):
        alone = bare.round()
        before = server.cpu_seconds()
        outcome = ask(lambda on: saturate(on, requests, together=CLIENTS, seconds=ROUND_SECONDS))
        assert set(outcome.statuses) == {200}, outcome.statuses
        cpu = (server.cpu_seconds() - before) / len(outcome.seconds)
        rounds.append(
            {
                "bare_per_s": alone["per_s"],
                "bare_cpu_ms": alone["cpu_ms"],
                "service_per_s": len(outcome.seconds) / outcome.elapsed,
                "service_cpu_ms": cpu * 1000,
            }
        )
        print(" ", {name: round(value, 2) for name, value in rounds[-1].items()}, file=sys.stderr, flush=True)
    capacity = median(one["bare_per_s"] for one in rounds)
    rate = 0.7 * median(one["service_per_s"] for one in rounds)
    count = int(LATENCY_SECONDS * rate)
    draw = random.Random(0)  # noqa: S311
    paced = ask(lambda on: arrive(on, requests, [1 / rate] * count))
    poisson = ask(lambda on: arrive(on, requests, [draw.expovariate(rate) for _ in range(count)]))
    text = ask(lambda on: saturate(on, texts, together=1, seconds=3))
    peak_before = server.peak_mb()
    print("  overloading", file=sys.stderr, flush=True)
    burst = 10 * capacity
    overload = ask(lambda on: arrive(on, requests, [1 / burst] * int(OVERLOAD_SECONDS * burst)))
    after = ask(lambda on: saturate(on, requests, together=1, seconds=1))
    assert set(after.statuses) == {200}, after.statuses
    print(" ", "overload", dict(overload.statuses), file=sys.stderr, flush=True)
    wrong = sum(
        n
        for status, n in overload.statuses.items()
        if status == CONNECTION_ERROR or (status >= 500 and status != 503)
    )
    return [
        *(Figure(name, median(one[name] for one in rounds)) for name in rounds[0]),
        Figure(
            "service_cpu_added_ms", median(one["service_cpu_ms"] - one["bare_cpu_ms"] for one in rounds), at_most=3
        ),
        Figure("throughput_ratio", median(one["service_per_s"] / one["bare_per_s"] for one in rounds), at_least=0.85),
        Figure("paced_p50_ms", paced.percentile(0.5) * 1000),
        Figure("paced_p99_over_p50", paced.percentile(0.99) / paced.percentile(0.5), at_most=4),
        Figure("poisson_p50_ms", poisson.percentile(0.5) * 1000),
        Figure("poisson_p95_ms", poisson.percentile(0.95) * 1000, at_most=250),  # the SLO of docs/operations.md
        Figure("poisson_p99_over_p50", poisson.percentile(0.99) / poisson.percentile(0.5)),
        Figure("text_only_p50_ms", text.percentile(0.5) * 1000, at_most=10),
        Figure("ready_s", server.ready_s, at_most=5),
        Figure("peak_before_overload_mb", peak_before),
        Figure("peak_mb", server.peak_mb(), at_most=700),
        Figure("overload_requests_per_s", overload.statuses.total() / overload.elapsed),
        Figure("overload_answered_per_s", overload.statuses[200] / overload.elapsed),
        Figure("overload_neither_answered_nor_503", wrong, at_most=0),
    ]


class _Bare:
    """The predictor without a service, one product at a time on the service's core."""

    def __init__(self, model: Path, shown: Sequence[Shown]) -> None:
        from aisle.catalog import Product
        from aisle.model.bundle import Bundle
        from aisle.model.predictor import Predictor

        os.sched_setaffinity(0, {SERVER_CORE})  # the threads that it starts stay there
        self._products = [Product(one.title, "", one.image) for one in shown]
        self._predictor = Predictor(Bundle.load(model), threads=1)
        self._predictor.predict(self._products[:1])

    def round(self) -> dict[str, float]:
        os.sched_setaffinity(0, {SERVER_CORE})
        try:
            wall, cpu = time.perf_counter(), time.process_time()
            for product in self._products:
                self._predictor.predict([product])
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        finally:
            os.sched_setaffinity(0, {LOAD_CORE})
        return {"per_s": len(self._products) / wall, "cpu_ms": cpu / len(self._products) * 1000}


def shown_products(real: Path) -> list[Shown]:
    """Products of the training table whose untouched 500 x 500 image is there."""
    import polars as pl

    folder = real / "full_size"
    if not folder.is_dir():
        raise Skipped(f"there are no 500 x 500 images in {folder}")
    table = pl.read_csv(real / "X_train_update.csv", infer_schema=False)
    titles = {
        f"image_{image}_product_{product}": title
        for title, image, product in table.select("designation", "imageid", "productid").iter_rows()
    }
    found = [
        Shown(title, path.read_bytes()) for path in sorted(folder.glob("*.jpg")) if (title := titles.get(path.stem))
    ]
    if not found:
        raise Skipped(f"no image in {folder} is of a product of the table")
    return found[:PRODUCTS]


def champion_of(place: Workplace, options: Options, real: Path) -> Path:
    """The bundle that serves at this place: the one that was named, or one that is trained now."""
    if options.model:
        place.aisle("registry", "list")  # makes the folder of the store
        add_model(place, Path(options.model))
    else:
        place.aisle("import", "--source", real)
        place.aisle("train", "--recipe", "light")
    return next(path for path in (place.path / "models_path").iterdir() if path.is_dir())


def add_model(place: Workplace, model: Path) -> None:
    from aisle.model.bundle import Bundle
    from aisle.registry.bundles import BundleStore

    store = BundleStore(place.path / "models_path")
    bundle = Bundle.load(model)
    store.add(bundle)
    store.make_champion(bundle.version)


@contextmanager
def token_service(place: Workplace) -> Iterator[tuple[str, str]]:
    """A token, and the address of the token service that gave it."""
    password = secrets.token_urlsafe(18)
    minutes = "600"
    settings = {"AUTH_PORT": "0", "BOOTSTRAP_ADMIN_USER": "bench", "BOOTSTRAP_ADMIN_PASSWORD": password}
    settings |= {"ACCESS_TOKEN_EXPIRE_MINUTES": minutes}
    with started(place, ["auth"], settings, {LOAD_CORE}) as (_, url):
        form = urllib.parse.urlencode({"username": "bench", "password": password}).encode()
        with urllib.request.urlopen(f"{url}/token", form, timeout=30) as answer:  # noqa: S310
            yield json.load(answer)["access_token"], url


@contextmanager
def running_service(place: Workplace, auth_url: str) -> Iterator[Server]:
    settings = {"PORT": "0", "THREADS": "1", "AUTH_URL": auth_url, "RATE_LIMITS": "predict=100000000/second"}
    begun = time.perf_counter()
    with started(place, ["serve"], settings, {SERVER_CORE}) as (process, url):
        with urllib.request.urlopen(f"{url}/readyz", timeout=30) as answer:  # noqa: S310
            assert answer.status == 200
        ready = time.perf_counter() - begun
        address = urllib.parse.urlsplit(url)
        yield Server(process, str(address.hostname), int(address.port or 0), ready)


@contextmanager
def started(
    place: Workplace, words: Sequence[str], settings: Mapping[str, str], cores: set[int]
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`aisle WORDS` on some cores, and the address it says that it serves; stopped at the end."""
    environment = {**place.environment, **settings, "DRAIN_SECONDS": "0", "DATABASE_URL": DATABASE}
    log = place.path / f"{words[0]}.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            on_cores(cores, [executable(), *words]), cwd=place.path, env=environment, stderr=stream, text=True
        )
    try:
        while not (match := re.search(r" serving.* url=(\S+)", log.read_text())):
            if process.poll() is not None:
                raise RuntimeError(log.read_text()[-2000:])
            time.sleep(0.02)
        yield process, match[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def request_of(title: str, image: bytes | None, token: str) -> bytes:
    mark = "benchmark-boundary"
    parts = [f'--{mark}\r\nContent-Disposition: form-data; name="designation"\r\n\r\n{title}\r\n'.encode()]
    if image is not None:
        head = (
            f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg'
        )
        parts.append(head.encode() + b"\r\n\r\n" + image + b"\r\n")
    body = b"".join(parts) + f"--{mark}--\r\n".encode()
    head = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: multipart/form-data; boundary={mark}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body

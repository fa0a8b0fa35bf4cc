"""A whole shop as processes, under a load, with faults: and what has to be true of it afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

import httpx
import psutil  # type: ignore[import-untyped]
from sqlalchemy import select
from tests.faults.load import Job, Load
from tests.faults.programs import Platform, Program
from tests.faults.proxy import Mode, Proxy
from tests.servers import Cluster, free_port, new_cluster, redis
from tests.service.processes import AISLE, Shop, wait_for

from aisle.catalog import Prediction, Product
from aisle.model.bundle import Bundle
from aisle.model.predictor import Predictor
from aisle.registry.bundles import BundleStore
from aisle.settings import Settings
from aisle.store.engine import open_database, reading
from aisle.store.schema import feedback, predictions

START_SECONDS = 900
SETTLE_SECONDS = 300
"""Until all that was acknowledged has to be where it belongs."""
SAME = 1e-6
"""How far the same product's confidence may differ between batches (docs/how-it-works.md)."""
TITLES = tuple(
    f"{what} {how}"
    for what in (
        "Piscine ronde",
        "Livre de poche",
        "Console de jeux",
        "Figurine",
        "Lampe de chevet",
        "Lot de magazines",
    )
    for how in ("bleue", "neuf", "3 m", "de collection", "enfant", "très bon état")
)


@dataclass
class Stage:
    """What runs, and the ways to harm it."""

    platform: Platform
    cluster: Cluster
    database: contextlib.ExitStack
    to_postgres: Proxy
    to_redis: Proxy
    url: str

    @property
    def service(self) -> Program:
        return self.platform["service"]

    def is_ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        return False

    def kill_postgres(self) -> None:
        """kill -9 of all of PostgreSQL, which then has to recover."""
        first = int((self.cluster.folder / "data" / "postmaster.pid").read_text().split()[0])
        everything = [psutil.Process(first), *psutil.Process(first).children(recursive=True)]
        for one in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(everything[1:], timeout=30)

    def start_postgres(self) -> None:
        self.database.close()
        self.database.enter_context(self.cluster.running())


Fault = Callable[[Stage, Random], None]


def kill_service(stage: Stage, draw: Random) -> None:
    stage.service.kill()


def kill_a_worker_of_the_service(stage: Stage, draw: Random) -> None:
    _kill_one_of(stage.service, draw)


def kill_tokens(stage: Stage, draw: Random) -> None:
    stage.platform["tokens"].kill()


def kill_bulk(stage: Stage, draw: Random) -> None:
    stage.platform["bulk"].kill()


def kill_a_worker_of_bulk(stage: Stage, draw: Random) -> None:
    _kill_one_of(stage.platform["bulk"], draw)


def kill_postgres(stage: Stage, draw: Random) -> None:
    stage.kill_postgres()
    time.sleep(draw.uniform(0, 3))
    stage.start_postgres()


def stop_postgres(stage: Stage, draw: Random) -> None:
    stage.database.close()
    time.sleep(draw.uniform(0, 3))
    stage.start_postgres()


def _through(proxy: str, mode: Mode) -> Fault:
    def harm(stage: Stage, draw: Random) -> None:
        one: Proxy = getattr(stage, proxy)
        one.set(mode)
        time.sleep(draw.uniform(0.5, 4))
        one.set(Mode.PASSING)

    return harm


def _kill_one_of(program: Program, draw: Random) -> None:
    workers = program.workers()
    if workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            draw.choice(workers).kill()


FAULTS: Mapping[str, Fault] = {
    "kill -9 of the service": kill_service,
    "kill -9 of a worker of the service": kill_a_worker_of_the_service,
    "kill -9 of the token service": kill_tokens,
    "kill -9 of the bulk worker": kill_bulk,
    "kill -9 of a process of the bulk worker": kill_a_worker_of_bulk,
    "PostgreSQL killed by -9": kill_postgres,
    "PostgreSQL gone and back": stop_postgres,
    "PostgreSQL slow": _through("to_postgres", Mode.SLOW),
    "PostgreSQL silent": _through("to_postgres", Mode.SILENT),
    "PostgreSQL refusing": _through("to_postgres", Mode.REFUSING),
    "Redis slow": _through("to_redis", Mode.SLOW),
    "Redis silent": _through("to_redis", Mode.SILENT),
    "Redis refusing": _through("to_redis", Mode.REFUSING),
}


@dataclass
class Report:
    """What came of a run. `lost` and `wrong` have to be empty."""

    seed: int
    faults: Mapping[str, int]
    seconds: float
    answers: int = 0
    corrections: int = 0
    batches: int = 0
    rows: int = 0
    longest_stall_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    told: Mapping[str, int] = field(default_factory=dict)
    restarts: Mapping[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)


@contextlib.contextmanager
def staged(folder: Path, bundle: Bundle) -> Iterator[Stage]:
    """The shop, ready: token service, prediction service with two workers, bulk worker, PostgreSQL and Redis."""
    store = BundleStore(folder / "models")
    store.add(bundle)
    store.make_champion(bundle.version)
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(new_cluster())
        database = stack.enter_context(contextlib.ExitStack())
        database.enter_context(cluster.running())
        counting = stack.enter_context(redis(folder / "redis"))
        to_postgres = stack.enter_context(Proxy(cluster.port).running())
        to_redis = stack.enter_context(Proxy(int(counting.url.rpartition(":")[2].split("/")[0])).running())
        port = free_port()
        shop = Shop.at(
            folder,
            PORT=str(port),
            DATABASE_URL=cluster.url.replace(f":{cluster.port}/", f":{to_postgres.port}/"),
            REDIS_URL=f"redis://127.0.0.1:{to_redis.port}/0",
            TRUSTED_PROXIES="127.0.0.1",
            THREADS="1",
            WORKER_LEASE_SECONDS="3",
            WORKER_POLL_SECONDS="0.2",
            BATCH_QUOTAS="admin=1000/100000000",
        )
        ours = {name.upper() for name in Settings.model_fields}
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        environment = {**kept, **shop.settings, "RATE_LIMITS": f"{shop.settings['RATE_LIMITS']}, {_BATCHES}"}
        programs = [
            Program(name, [*AISLE, *words], folder, environment)
            for name, words in {
                "tokens": ["auth"],
                "service": ["serve", "--workers", "2"],
                "bulk": ["worker", "--processes", "2"],
            }.items()
        ]
        platform = stack.enter_context(Platform(programs))
        stage = Stage(platform, cluster, database, to_postgres, to_redis, f"http://127.0.0.1:{port}")
        wait_for(stage.is_ready, seconds=START_SECONDS)
        yield stage


_BATCHES = "batches=100000/second, results=100000/second"


def run(
    stage: Stage, bundle: Bundle, faults: Sequence[str], *, seed: int, clients: int = 3, table: int = 3000,
    pause: tuple[float, float] = (0.5, 3.0), least_seconds: float = 0.0,
) -> Report:  # fmt: skip
    """Load with these faults, one after the other, after pauses that are drawn; then what is true is looked up."""
    draw, started = Random(seed), time.monotonic()
    with Load(stage.url, TITLES, clients=clients, table=table, seed=seed) as load:
        wait_for(lambda: len(load.answers) > 10, seconds=START_SECONDS)
        for name in faults:
            time.sleep(draw.uniform(*pause))
            before = len(load.answers)
            FAULTS[name](stage, draw)
            wait_for(lambda before=before: len(load.answers) > before + 5, seconds=START_SECONDS)  # type: ignore[misc]
        while time.monotonic() - started < least_seconds:
            time.sleep(0.5)
    wait_for(stage.is_ready, seconds=START_SECONDS)
    load.finish(SETTLE_SECONDS)
    report = Report(seed, dict(Counter(faults)), round(time.monotonic() - started, 1))
    report.answers, report.batches = len(load.answers), len(load.jobs)
    report.corrections = sum(one.is_acknowledged for one in load.corrections)
    report.rows = sum(len(one.rows or []) for one in load.jobs)
    report.longest_stall_seconds = round(load.longest_stall, 2)
    report.peak_memory_mb = round(stage.platform.peak_memory / 1e6)
    report.told = dict(sorted(load.told.items()))
    report.restarts = {one.name: one.starts - 1 for one in stage.platform.programs}
    report.wrong = load.wrong
    expected = _expected(bundle)
    _compare_answers(load, expected, report)
    _look_up(stage.cluster.url, load, report)
    for job in load.jobs:
        _compare_rows(job, expected, report)
    return report


def _expected(bundle: Bundle) -> dict[str, Prediction]:
    """What the bundle says of each title."""
    with Predictor(bundle, threads=1) as predictor:
        said = predictor.predict([Product(title) for title in TITLES])
    return {title: one for title, one in zip(TITLES, said, strict=True) if isinstance(one, Prediction)}


def _compare_answers(load: Load, expected: Mapping[str, Prediction], report: Report) -> None:
    for answer in load.answers:
        wanted = expected[answer.title]
        code, _, confidence = answer.said[0]
        is_same = code == wanted.type.code and abs(confidence - wanted.confidence) <= SAME
        if not is_same or answer.decision != wanted.decision.value or answer.model != wanted.model_version:
            report.wrong.append(f"{answer} is not what the bundle says")


def _look_up(url: str, load: Load, report: Report) -> None:
    """All that was acknowledged is in the database, once and as it was said; it may take a while to get there."""
    engine, deadline = open_database(url), time.monotonic() + SETTLE_SECONDS
    wanted = {one.id for one in load.answers}
    while True:
        with reading(engine) as connection:
            found = {row.id: row for row in connection.execute(select(predictions))}
        if wanted <= found.keys() or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    for answer in load.answers:
        row = found.get(answer.id)
        if row is None:
            report.lost.append(f"{answer}")
        elif (row.predicted, row.confidence) != (answer.said[0][0], answer.said[0][2]):
            report.wrong.append(f"{answer} is recorded as {row.predicted} {row.confidence}")
    with reading(engine) as connection:
        words = Counter(
            tuple(row) for row in connection.execute(select(feedback.c.prediction_id, feedback.c.type_code))
        )
    for one in load.corrections:
        count = words[(one.prediction_id, one.code)]
        if one.is_acknowledged and not count:
            report.lost.append(f"{one}")
        if count > 1:
            report.wrong.append(f"{one} is there {count} times")
    engine.dispose()


def _compare_rows(job: Job, expected: Mapping[str, Prediction], report: Report) -> None:
    if job.rows is None or len(job.rows) != len(job.titles):
        report.lost.append(f"batch {job.id}: {None if job.rows is None else len(job.rows)} of {len(job.titles)} rows")
        return
    for number, (title, row) in enumerate(zip(job.titles, job.rows, strict=True)):
        wanted = expected[title]
        is_same = row["predicted"] == wanted.type.code and abs(float(row["confidence"]) - wanted.confidence) <= SAME
        if row["index"] != str(number) or not is_same:
            report.wrong.append(f"batch {job.id}, row {number}: {row}")

"""`aisle worker` as real processes, which are killed, stopped and left without a disk or a database."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import psutil  # type: ignore[import-untyped]
import pytest
from sqlalchemy import Engine, select
from tests.end_to_end.conftest import Processes, write_csv
from tests.servers import new_cluster

from aisle.batch.bulk import BulkOptions, local_engine, make_task, predict_table
from aisle.batch.job import _file_as_dict
from aisle.batch.places import Place
from aisle.batch.spool import Spool
from aisle.clock import utc_now
from aisle.errors import ServiceMissing
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.store import batches
from aisle.store.batches import Batch, BatchState, NewBatch, PieceRow
from aisle.store.engine import open_database, reading, writing
from aisle.store.migrate import migrate
from aisle.store.schema import batch_pieces

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROWS, PIECE = 800, 8
WORDS = ("livre roman ancien", "piscine gonflable bleue", "jeu console", "figurine", "lampe de chevet")
BATCH = "b" * 32


@dataclass
class Shop:
    """A folder with a bundle store and a database, in which workers are started."""

    folder: Path
    url: str
    processes: Processes
    bundle: Bundle
    started: list[psutil.Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine: Engine = open_database(self.url)
        self.spool = Spool(self.folder / "data" / "batches")

    def order(self, rows: int = ROWS) -> None:
        """A batch that is planned already, in small pieces: where a worker plans, they are larger."""
        folder = self.spool.folder(BATCH)
        write_csv(folder / "table.csv", [["index", "designation"], *titles(rows)])
        new = NewBatch(BATCH, "anne", "table.csv", None, None, None, "f" * 64, rows)
        task = make_task(self.bundle, self.spool.table(BATCH), BulkOptions(rows=PIECE))
        pieces = [
            PieceRow(one.number, one.file, one.start, one.stop, PIECE * one.number, one.rows)
            for one in task.source.pieces
        ]
        source = {"files": [_file_as_dict(one, folder) for one in task.source.files]}
        with writing(self.engine) as connection:
            batches.add(connection, new, at=utc_now())
            claim = batches.claim(connection, "test", now=utc_now(), lease=EPOCH - EPOCH)
            assert claim is not None
            batches.planned(connection, claim, pieces, source=source, model_version=self.bundle.version, at=utc_now())

    def work(self, *, processes: int = 2, limit: int = 0) -> subprocess.Popen[str]:
        """`aisle worker`."""
        process = self.processes.start(
            "worker", "--processes", str(processes), cwd=self.folder, limit=limit, DATABASE_URL=self.url,
            WORKER_LEASE_SECONDS="2", WORKER_POLL_SECONDS="0.05",
        )  # fmt: skip
        self.started.append(psutil.Process(process.pid))
        return process

    def batch(self) -> Batch:
        with reading(self.engine) as connection:
            found = batches.find(connection, BATCH, user="anne")
        assert found is not None
        return found

    def until(self, seen: Callable[[Batch], object]) -> Batch:
        deadline = time.monotonic() + 180
        while True:
            batch = self.batch()
            if seen(batch):
                return batch
            assert time.monotonic() < deadline, batch
            time.sleep(0.01)

    def until_done(self) -> Batch:
        batch = self.until(lambda one: one.is_over)
        assert (batch.state, batch.done, batch.errors) == (BatchState.DONE, batch.rows, 0), batch.problem
        return batch

    def result(self) -> bytes:
        return self.spool.parts(BATCH).output.read_bytes()

    def expected(self) -> bytes:
        """What a run that nobody disturbs gives."""
        out = Place(str(self.folder / "expected.parquet"))
        predict_table(self.bundle, self.spool.table(BATCH), out, local_engine(1), BulkOptions(rows=PIECE))
        return out.read_bytes()


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def titles(rows: int) -> Iterator[list[object]]:
    for number in range(rows):
        yield [number, f"{WORDS[number % 5]} {number % 83} {number}"]


def is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:  # it has just gone
        return False


def gone(*processes: psutil.Process) -> None:
    psutil.wait_procs(processes, timeout=30)
    assert not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def make_shop(bundle: Bundle, processes: Processes, tmp_path: Path) -> Iterator[Callable[[str], Shop]]:
    made: list[Shop] = []

    def make(url: str) -> Shop:
        store = BundleStore(tmp_path / "models")
        store.add(bundle)
        store.make_champion(bundle.version)
        shop = Shop(tmp_path, url, processes, bundle)
        migrate(shop.engine)
        made.append(shop)
        return shop

    yield make
    for shop in made:
        for process in shop.started:
            if process.is_running():
                for one in [*process.children(recursive=True), process]:
                    one.kill()
        shop.engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest, make_shop: Callable[[str], Shop], tmp_path: Path) -> Shop:
    if request.param == "sqlite":
        return make_shop(f"sqlite:///{tmp_path / 'aisle.db'}")
    url: str = request.getfixturevalue("empty_postgres")
    return make_shop(url)


@pytest.fixture
def sqlite_shop(make_shop: Callable[[str], Shop], tmp_path: Path) -> Shop:
    return make_shop(f"sqlite:///{tmp_path / 'aisle.db'}")


@pytest.mark.parametrize("kills", [4, pytest.param(10, marks=pytest.mark.soak)])
def test_killed_again_and_again_the_result_is_that_of_a_run_that_nobody_disturbs(shop: Shop, kills: int) -> None:
    """A point is a number of rows that are done; who is killed is one worker, or all with what started them."""
    draw = Random(2026)
    shop.order()
    process = shop.work()
    for number in range(kills):
        least = shop.batch().done + draw.randrange(1, ROWS // kills)
        shop.until(lambda one, least=least: one.done >= least or one.is_over)  # type: ignore[misc]
        first = psutil.Process(process.pid)
        children = [one for one in first.children(recursive=True) if is_worker(one)]
        if number % 2 and children:
            draw.choice(children).kill()
            continue
        first.kill()
        process.communicate()
        gone(*children)  # nobody works on whose parent was killed
        process = shop.work()
    shop.until_done()
    assert shop.result() == shop.expected()
    process.terminate()
    process.communicate()


def test_several_workers_share_a_batch_and_each_row_is_there_once(shop: Shop) -> None:
    shop.order()
    started = [shop.work(processes=1) for _ in range(3)]
    seen: set[str] = set()

    def look(batch: Batch) -> bool:
        with reading(shop.engine) as connection:
            seen.update(filter(None, connection.execute(select(batch_pieces.c.worker)).scalars()))
        return batch.is_over

    shop.until(look)
    shop.until_done()
    assert len(seen) == 3
    assert shop.result() == shop.expected()
    for process in started:
        process.terminate()
        process.communicate()
        assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_stop_does_what_it_began_and_leaves_the_rest_free(
    sqlite_shop: Shop, number: signal.Signals
) -> None:
    sqlite_shop.order()
    process = sqlite_shop.work()
    sqlite_shop.until(lambda one: one.done >= 2 * PIECE)
    os.kill(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode == 0
    batch = sqlite_shop.batch()
    with reading(sqlite_shop.engine) as connection:
        left = connection.execute(select(batch_pieces)).all()
    assert {row.worker for row in left} <= {None}
    assert batch.done + sum(row.rows for row in left) == ROWS


def test_without_room_on_the_disk_it_waits_and_says_so_and_goes_on_when_there_is(
    make_shop: Callable[[str], Shop], empty_postgres: str
) -> None:
    shop = make_shop(empty_postgres)
    shop.order(rows=80)
    process = shop.work(processes=1, limit=1_500)  # a part is larger
    found = shop.until(lambda one: one.problem)
    assert found.problem == "File too large: the service tries again."
    assert found.done == 0
    process.terminate()
    process.communicate()
    process = shop.work()
    assert shop.until_done().problem is None
    assert shop.result() == shop.expected()
    process.terminate()
    process.communicate()


def test_it_goes_on_when_the_database_is_back(make_shop: Callable[[str], Shop]) -> None:
    with new_cluster() as cluster:
        with cluster.running():
            shop = make_shop(cluster.url)
            shop.order()
            process = shop.work()
            shop.until(lambda one: one.done >= 2 * PIECE)
        with pytest.raises(ServiceMissing):
            shop.batch()
        with cluster.running():
            shop.until_done()
            assert shop.result() == shop.expected()
            process.terminate()
            process.communicate()
            assert process.returncode == 0
            shop.engine.dispose()

"""`aisle worker`: processes that claim pieces of batches and do them, until told to stop.

Whatever happens to a worker, nothing is lost: what it had is free again when its lease is over, or at once where the
process that started it sees it die. What cannot be done now (a full disk, S3 away) is tried again after a while that
grows, and so is what a bundle that is just being replaced does not let through; what cannot be done at all ends its
batch, and says why.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing.context import SpawnProcess
from pathlib import Path

from sqlalchemy import Engine

from aisle.batch.job import Jobs
from aisle.batch.spool import Spool
from aisle.clock import Clock, utc_now
from aisle.errors import AisleError, BundleError, InputError, ServiceMissing
from aisle.logs import LogFile, get_logger, setup_logging
from aisle.processes import follow_parent, give_back_memory
from aisle.settings import Settings, get_settings
from aisle.store import batches
from aisle.store.batches import Claim
from aisle.store.engine import open_database, reading, writing
from aisle.store.migrate import migrate

FAILURES = 10
LONGEST_PAUSE = timedelta(minutes=5)
SWEEP_EVERY = timedelta(hours=1)
RESTART_SECONDS = 1.0
NICE = 10

_log = get_logger(__name__)


class Worker:
    """One process's work. `threads` for images; a claim lasts as long as the worker renews it."""

    def __init__(
        self, engine: Engine, settings: Settings, *, name: str = "", threads: int = 1, clock: Clock = utc_now
    ) -> None:
        self.name = name or uuid.uuid4().hex
        self._engine, self._settings, self._clock = engine, settings, clock
        self._lease = timedelta(seconds=settings.worker_lease_seconds)
        self._jobs = Jobs(engine, settings, threads=threads, clock=clock)

    def work(self, stop: threading.Event) -> None:
        """Until `stop`; what is under way is done first. Raises nothing for what time may change."""
        while not stop.is_set():
            try:
                if self.step():
                    continue
            except ServiceMissing as error:  # the database
                _log.error("no work to be had", reason=str(error))
            stop.wait(self._settings.worker_poll_seconds)
        self.close()

    def close(self) -> None:
        self._jobs.close()

    def step(self) -> bool:
        """Do one piece. False where there was none to do. Raises ServiceMissing without a database."""
        with reading(self._engine) as connection:
            if not batches.is_work_there(connection, now=self._clock()):
                return False
        with writing(self._engine) as connection:
            claim = batches.claim(connection, self.name, now=self._clock(), lease=self._lease)
        if claim is None:
            return False
        with self._renewing(claim):
            self._try(claim)
        return True

    def _try(self, claim: Claim) -> None:
        batch, piece = claim.batch, claim.piece.number
        try:
            self._jobs.do(claim)
        except Exception as error:  # noqa: BLE001  whatever it is, the batch is told of it and tried again
            if isinstance(error, InputError) and not isinstance(error, BundleError):
                self._fail(claim, self._told(claim, error))
                return
            failures = claim.failures + 1
            told = self._told(claim, error)
            if failures >= FAILURES:
                self._fail(claim, f"{told} It was tried {failures} times.")
                return
            pause = min(timedelta(seconds=2**failures), LONGEST_PAUSE)
            is_ours = isinstance(error, AisleError | OSError)
            facts = {"batch": batch.id, "piece": piece, "failures": failures, "pause_seconds": pause.total_seconds()}
            _log.warning("a piece is put back", reason=told, **facts, exc_info=None if is_ours else error)
            with writing(self._engine) as connection:
                batches.put_back(connection, claim, told, free_at=self._clock() + pause)

    def _fail(self, claim: Claim, problem: str) -> None:
        _log.error("batch failed", batch=claim.batch.id, reason=problem)
        with writing(self._engine) as connection:
            batches.fail(connection, claim.batch.id, problem, at=self._clock())

    def _told(self, claim: Claim, error: Exception) -> str:
        """What the user is told: no path of this machine is any of theirs."""
        batch, spool = claim.batch, Spool(self._settings.batches_path)
        if isinstance(error, OSError):
            return f"{error.strerror or 'a file cannot be used'}: the service tries again."
        if not isinstance(error, AisleError):
            return f"unexpected {type(error).__name__}: the service tries again."
        line = str(error)
        for hidden in (spool.table(batch.id).address, str(spool.folder(batch.id))):
            line = line.replace(hidden, batch.name)
        return line.replace(str(self._settings.models_path), "models")

    @contextlib.contextmanager
    def _renewing(self, claim: Claim) -> Iterator[None]:
        """Keep the claim for as long as this takes."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(self._lease.total_seconds() / 3):
                with contextlib.suppress(ServiceMissing), writing(self._engine) as connection:
                    if not batches.renew(connection, claim, until=self._clock() + self._lease):
                        return

        thread = threading.Thread(target=renew, name="renew", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def clean_up(engine: Engine, settings: Settings, *, clock: Clock = utc_now) -> list[str]:
    """Remove batches that ended long ago with their files, and files of none; the ids of what went."""
    spool, now = Spool(settings.batches_path), clock()
    with writing(engine) as connection:
        old = batches.ended_before(connection, now - timedelta(days=settings.batches_keep_days))
        batches.remove(connection, old)
    for batch_id in old:
        spool.remove(batch_id)
    with reading(engine) as connection:
        known = batches.known(connection)
    return [*old, *spool.sweep(known, now=now.timestamp())]


def run_workers(settings: Settings, *, processes: int, heartbeat: Path | None = None) -> None:
    """Work in so many processes until told to stop by SIGTERM or Ctrl-C; one that dies is replaced.

    `heartbeat` is a file that is touched in each round of this, about once a second, for a probe that looks at its
    age; it is absent until there are processes, and once this is over.

    Raises ServiceMissing without a database, UsageError for settings that cannot be used.
    """
    if heartbeat is not None:
        heartbeat.unlink(missing_ok=True)  # of a process before this one, in the same place
    engine = open_database(settings.database_url)
    migrate(engine)
    Jobs(engine, settings, threads=1, clock=utc_now)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    spawn = multiprocessing.get_context("spawn")
    working: dict[str, SpawnProcess] = {}
    _log.info("working", processes=processes, folder=str(settings.batches_path))
    swept = 0.0
    try:
        while not stop.is_set():
            _replace_the_dead(working, engine)
            for _ in range(processes - len(working)):
                name = uuid.uuid4().hex
                working[name] = spawn.Process(target=_work, args=(name,), name=f"worker {name[:8]}")
                working[name].start()
            _beat(heartbeat)
            if time.monotonic() - swept > SWEEP_EVERY.total_seconds() or not swept:
                swept = time.monotonic()
                with contextlib.suppress(ServiceMissing):
                    gone = clean_up(engine, settings)
                    if gone:
                        _log.info("old batches removed", batches=len(gone))
            stop.wait(RESTART_SECONDS)
    finally:
        for process in working.values():
            process.terminate()
        for process in working.values():
            process.join()
        engine.dispose()
        if heartbeat is not None:
            heartbeat.unlink(missing_ok=True)
        _log.info("stopped working")


@contextlib.contextmanager
def worker_beside() -> Iterator[None]:
    """`aisle worker` with one process, for as long as this takes: what this process does goes first."""
    process = multiprocessing.get_context("spawn").Process(target=_beside, name="worker")
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _beside() -> None:
    os.nice(NICE)
    follow_parent(lambda: os._exit(1))  # a part is whole or absent, and the lease ends by itself
    settings = get_settings()
    setup_logging(LogFile.SERVING, settings.logs_path, level=settings.log_level)
    run_workers(settings, processes=1)


def _beat(heartbeat: Path | None) -> None:
    """Say that this process goes round. On a disk that takes nothing it says nothing, and works on."""
    if heartbeat is not None:
        with contextlib.suppress(OSError):
            heartbeat.touch()


def _replace_the_dead(working: dict[str, SpawnProcess], engine: Engine) -> None:
    for name in [name for name, process in working.items() if not process.is_alive()]:
        _log.error("a worker died", worker=name, exit_code=working.pop(name).exitcode)
        with contextlib.suppress(ServiceMissing), writing(engine) as connection:
            batches.release(connection, name, now=utc_now())


def _work(name: str) -> None:
    """The whole life of a process, which has only the environment to go by."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells all of them; the first process ends the others
    follow_parent(lambda: os._exit(1))  # a part is whole or absent, and the lease ends by itself
    give_back_memory()
    settings = get_settings()
    setup_logging(LogFile.SERVING, settings.logs_path, level=settings.log_level)
    Worker(open_database(settings.database_url), settings, name=name).work(stop)

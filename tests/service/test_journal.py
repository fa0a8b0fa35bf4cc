"""What was answered and is not in the database yet: written down, found again after a kill, and only once."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select
from tests.service.conftest import Service, Starter
from tests.service.processes import wait_for

from aisle.clock import utc_now
from aisle.errors import ServiceMissing
from aisle.service import recorder as recording
from aisle.service.journal import SUFFIX, Journal
from aisle.service.metrics import JOURNAL
from aisle.service.recorder import Recorder
from aisle.store import predictions
from aisle.store.engine import open_database, reading
from aisle.store.migrate import migrate
from aisle.store.predictions import PredictionRecord
from aisle.store.schema import predictions as table
from aisle.store.schema import reviews

KEEP = timedelta(days=1)


def record(number: int = 0, **fields: object) -> PredictionRecord:
    made = PredictionRecord(
        id=f"{number:032x}",
        created_at=utc_now(),
        user_name="shop",
        input_hash="0" * 64,
        designation="Piscine ronde\nbleue \u2028 é",
        description="",
        image_hash=None,
        predicted="2583",
        confidence=0.1 + 0.2,
        top=[{"code": "2583", "label": "Piscine", "confidence": 0.1 + 0.2}],
        decision="accept",
        model_version="v1",
        image_facts={"width": 500, "light": 0.3},
    )
    return replace(made, **fields)  # type: ignore[arg-type]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(f"sqlite:///{tmp_path / 'aisle.db'}")
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "records"


def journal(folder: Path, most_bytes: int = 1 << 20) -> Journal:
    return Journal(folder, most_bytes=most_bytes)


def recorder(engine: Engine, folder: Path) -> Recorder:
    """One that is not started: what it does is what the test tells it to."""
    return Recorder(engine, keep=KEEP, journal=journal(folder))


def ids(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        return sorted(connection.execute(select(table.c.id)).scalars())


def lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob(f"*{SUFFIX}"))


def outcome(name: str) -> float:
    return float(JOURNAL.labels(name)._value.get())


KILLED = """
import dataclasses, datetime, os, pathlib, signal, sys
from aisle.service.journal import Journal
from aisle.store.predictions import PredictionRecord
written = Journal(pathlib.Path(sys.argv[1]), most_bytes=1 << 20)
now = datetime.datetime.now(datetime.UTC)
one = PredictionRecord("", now, "shop", "", "Piscine", "", None, "2583", 0.5, [], "accept", "v1")
for number in range(int(sys.argv[2])):
    assert written.append(dataclasses.replace(one, id=f"{number:032x}"))
os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_after(folder: Path, count: int) -> None:
    """Let a process write records and be killed."""
    source = Path(__file__).parents[2] / "src"
    command = [sys.executable, "-c", KILLED, str(folder), str(count)]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(source)}, check=False)
    assert ended.returncode == -signal.SIGKILL


def test_a_record_is_read_as_it_was_written(folder: Path) -> None:
    written, one = journal(folder), record()
    assert written.append(one)
    written.close()
    [abandoned] = journal(folder).abandoned()
    assert abandoned.records == [one]


def test_what_a_killed_process_answered_is_stored_by_the_next_one(engine: Engine, folder: Path) -> None:
    kill_after(folder, 700)
    recorder(engine, folder).adopt()
    assert ids(engine) == [f"{number:032x}" for number in range(700)]
    assert not list(folder.iterdir())


def test_what_the_database_had_already_taken_is_there_once(engine: Engine, folder: Path) -> None:
    before = recorder(engine, folder)
    one = record(decision="review")
    before.record(one)
    assert before.flush()
    left = journal(folder)  # as if the process had been killed between the database's answer and `done`
    left.append(one)
    left.append(record(1, decision="review"))
    left.close()
    recorder(engine, folder).adopt()
    assert ids(engine) == [one.id, record(1).id]
    with reading(engine) as connection:
        assert connection.execute(select(func.count()).select_from(reviews)).scalar_one() == 2


def test_what_one_process_takes_over_the_others_leave_alone(engine: Engine, folder: Path) -> None:
    kill_after(folder, 20)
    with contextlib.ExitStack() as stack:
        for path in folder.iterdir():  # somebody is at it
            fcntl.flock(stack.enter_context(path.open("rb")), fcntl.LOCK_EX)
        recorder(engine, folder).adopt()
        assert ids(engine) == []
    recorder(engine, folder).adopt()
    assert len(ids(engine)) == 20


def test_a_process_that_lives_is_not_taken_for_dead(folder: Path) -> None:
    alive = journal(folder)
    alive.append(record())
    assert list(journal(folder).abandoned()) == []
    assert lines(folder) == 1


def test_what_is_in_the_database_is_not_in_the_journal_any_more(engine: Engine, folder: Path) -> None:
    ours = recorder(engine, folder)
    for number in range(3):
        ours.record(record(number))
        assert lines(folder) == 1
        assert ours.flush()
        assert lines(folder) == 0


@contextmanager
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The database does not answer."""

    def missing(engine: Engine) -> None:
        raise ServiceMissing("the database does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(recording, "writing", missing)
        yield


def test_while_the_database_is_away_everything_stays_in_the_journal(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = recorder(engine, folder)
    with away(monkeypatch):
        for number in range(5):
            ours.record(record(number))
            assert not ours.flush()
        assert lines(folder) == 5
    assert ours.flush()
    ours.flush()  # the second file is empty one round later
    assert lines(folder) == 0
    assert len(ids(engine)) == 5


def test_a_service_that_stops_without_its_database_leaves_its_records_to_the_next(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = recorder(engine, folder)
    stopping.start()
    with away(monkeypatch):
        stopping.record(record())
        stopping.stop()
    recorder(engine, folder).adopt()
    assert ids(engine) == [record().id]


def test_a_takeover_that_the_database_interrupts_is_done_again(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_after(folder, 3)
    with away(monkeypatch):
        recorder(engine, folder).adopt()
    assert lines(folder) == 3
    recorder(engine, folder).adopt()
    assert len(ids(engine)) == 3


def test_a_service_that_stops_leaves_no_files(engine: Engine, folder: Path) -> None:
    stopping = recorder(engine, folder)
    stopping.start()
    stopping.record(record())
    stopping.stop()
    assert list(folder.iterdir()) == []


def test_a_round_that_fails_is_not_the_last_one(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, failed = recorder(engine, folder), threading.Event()

    def fail() -> None:
        failed.set()
        raise RuntimeError

    monkeypatch.setattr(ours, "adopt", fail)
    ours.start()
    assert failed.wait(60)
    ours.record(record())
    wait_for(lambda: ids(engine))
    ours.stop()


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: content[:-40],  # killed in the middle of a line
        lambda content: content[:100] + b"\xff" + content[101:],
        lambda content: b"\0" * 50 + content[50:],
        lambda content: b"not a line\n" + content,
    ],
)
def test_of_a_damaged_file_all_whole_lines_are_read(folder: Path, harm: Callable[[bytes], bytes]) -> None:
    kill_after(folder, 2)
    [path] = [path for path in folder.iterdir() if path.stat().st_size]
    path.write_bytes(harm(path.read_bytes()))
    before = outcome("damaged")
    found = [one.id for abandoned in journal(folder).abandoned() for one in abandoned.records]
    assert 1 <= len(found) <= 2
    assert set(found) <= {record(0).id, record(1).id}
    assert outcome("damaged") == before + 1


def test_a_line_of_a_later_release_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, one = journal(folder), record()
    vars(one)["of_tomorrow"] = 1
    written.append(one)
    written.close()
    [abandoned] = journal(folder).abandoned()
    assert abandoned.records == [record(created_at=one.created_at)]


def test_it_takes_no_more_room_than_it_may_and_says_so(folder: Path) -> None:
    written = journal(folder, most_bytes=2_000)
    before = outcome("not_written")
    taken = [written.append(record(number)) for number in range(10)]
    assert 1 <= taken.count(True) < 10
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 2_000
    assert outcome("not_written") == before + taken.count(False)


def test_a_disk_that_is_full_stops_no_answer_and_spoils_no_line(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, write = recorder(engine, folder), os.write
    ours.record(record(0))

    def half(handle: int, content: bytes) -> int:
        write(handle, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        ours.record(record(1))
    ours.record(record(2))
    [path] = [path for path in folder.iterdir() if path.stat().st_size]
    assert path.read_bytes().count(b"\n") == 2
    assert ours.flush()
    assert len(ids(engine)) == 3


def test_a_folder_that_cannot_be_written_stops_no_answer(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "records").write_text("a file")
    ours = recorder(engine, tmp_path / "records")
    ours.record(record())
    assert ours.flush()
    ours.adopt()
    assert len(ids(engine)) == 1


def test_only_the_owner_may_read_it(folder: Path) -> None:
    written = journal(folder)
    written.append(record())
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o600"}


def test_a_file_is_locked_before_it_has_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    lock = fcntl.flock

    def look(handle: int, how: int) -> None:
        seen.append([path.name for path in folder.iterdir() if path.name.endswith(SUFFIX)])
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", look)
    journal(folder).append(record())
    assert [len(names) for names in seen] == [0, 1]


def test_a_correction_of_what_is_on_its_way_is_asked_for_again(start_service: Starter, tmp_path: Path) -> None:
    service = start_service(records_path=tmp_path / "records")
    of_another = journal(tmp_path / "records")
    of_another.append(record(7))
    answer = corrected(service)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:aisle:problem:prediction-on-its-way")
    assert answer.headers["retry-after"] == "1"
    of_another.close()  # its process was killed
    service.client.app.state.parts.recorder.adopt()  # type: ignore[attr-defined]
    assert corrected(service).status_code == 201
    with reading(service.engine) as connection:
        assert len(predictions.feedback_on(connection, record(7).id)) == 1


def corrected(service: Service) -> Any:
    body = {"prediction_id": record(7).id, "type": "2583"}
    return service.post("/feedback", name="shop", json=body)


def test_an_answer_is_in_the_journal_before_it_goes_out(start_service: Starter, tmp_path: Path) -> None:
    service = start_service(records_path=tmp_path / "records")
    ours = service.client.app.state.parts.recorder  # type: ignore[attr-defined]
    with ours._writing:  # nothing gets to the database
        answer = service.post("/predict", json={"designation": "Piscine ronde"}).json()
        assert journal(tmp_path / "records").holds(answer["prediction_id"])

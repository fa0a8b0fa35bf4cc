"""`aisle predict` of a large table when the world breaks: it can always go on, and the result is always the same."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import psutil  # type: ignore[import-untyped]
import pytest
from tests.batch.conftest import S3
from tests.end_to_end.conftest import Processes, Ran, contents, leftovers, wait_until, write_csv

from aisle.model.bundle import Bundle

pytestmark = pytest.mark.slow

ROWS, PIECE = 1600, 8
PIECES = ROWS // PIECE
WORDS = ("livre roman ancien", "piscine gonflable bleue", "jeu console", "figurine", "lampe de chevet")
DRAW = Random(2026)
POINTS = [(DRAW.randrange(1, PIECES // 30), DRAW.choice(["all", "parent", "child"])) for _ in range(20)]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    titles = ([n, f"{WORDS[n % 5]} {n % 83} {n}", "rouge" if n % 3 else ""] for n in range(ROWS))
    write_csv(tmp_path / "in.csv", [["index", "designation", "description"], *titles])
    return tmp_path


@pytest.fixture(scope="module")
def expected(processes: Processes, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a run that nobody disturbs gives."""
    folder = tmp_path_factory.mktemp("whole")
    titles = ([n, f"{WORDS[n % 5]} {n % 83} {n}", "rouge" if n % 3 else ""] for n in range(ROWS))
    write_csv(folder / "in.csv", [["index", "designation", "description"], *titles])
    assert processes.run(*words(bundle), cwd=folder, THREADS="2").code == 0
    return (folder / "out.csv").read_bytes()


def words(bundle: Bundle, *more: str, source: str = "in.csv", output: str = "out.csv") -> list[str]:
    return ["predict", source, "--output", output, "--model", str(bundle.path), "--piece-rows", str(PIECE), *more]


@pytest.fixture
def start(processes: Processes, bundle: Bundle, here: Path) -> Iterator[Start]:
    """The command as a process, which is ended with all that it started."""
    started: list[psutil.Process] = []

    def start(*more: str, **options: str) -> subprocess.Popen[str]:
        process = processes.start(*words(bundle, *more, **options), cwd=here, THREADS="2")
        started.append(psutil.Process(process.pid))
        return process

    yield start
    for process in started:
        for one in family(process):
            one.kill()


def family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def predicting(pid: int) -> list[psutil.Process]:
    """The processes of the pool, in the order of their start."""
    children = psutil.Process(pid).children()
    return [one for one in children if "spawn_main" in " ".join(_command_line(one))]


def until(process: subprocess.Popen[str], least: int, here: Path) -> None:
    """Until so many parts are there, and two processes at work."""
    wait_until(lambda: parts(here) >= least and len(predicting(process.pid)) == 2, process)


def parts(here: Path, name: str = "out.csv") -> int:
    return len(list((here / f".{name}.parts").glob("part-*")))


def ended(process: subprocess.Popen[str], seconds: float = 60) -> Ran:
    out, err = process.communicate(timeout=seconds)
    return Ran(process.returncode, out, err)


@pytest.fixture
def resume(processes: Processes, bundle: Bundle, here: Path) -> Callable[..., Ran]:
    def resume(*more: str, **options: str) -> Ran:
        return processes.run(*words(bundle, "--resume", *more, **options), cwd=here, THREADS="2")

    return resume


class TestKilled:
    @pytest.mark.parametrize("points", [POINTS[:6], pytest.param(POINTS, marks=pytest.mark.soak)], ids=len)
    def test_again_and_again_it_goes_on_to_the_same_result(
        self, start: Start, resume: Callable[..., Ran], here: Path, expected: bytes, points: list[tuple[int, str]]
    ) -> None:
        """A point is a number of parts more than there were; who is killed is a child, the parent, or all of them."""
        process = start()
        for more, who in points:
            least = parts(here) + more
            until(process, least, here)
            started = family(psutil.Process(process.pid))
            victims = {"all": started, "parent": started[:1], "child": predicting(process.pid)[:1]}[who]
            for victim in victims:
                victim.kill()
            if who == "child":
                continue
            assert ended(process).code == -signal.SIGKILL
            _, alive = psutil.wait_procs(started, timeout=30)
            assert alive == []
            assert not (here / "out.csv").exists()
            process = start("--resume")
        ran = ended(process)
        assert ran.code == 0
        assert (here / "out.csv").read_bytes() == expected
        assert {name for name in contents(here) if not name.startswith("logs/")} == {"in.csv", "out.csv"}

    def test_what_is_there_is_not_done_again(
        self, start: Start, resume: Callable[..., Ran], here: Path, expected: bytes
    ) -> None:
        process = start()
        wait_until(lambda: parts(here) >= 20, process)
        started = family(psutil.Process(process.pid))
        for one in started:
            one.kill()
        ended(process)
        psutil.wait_procs(started, timeout=30)
        found = parts(here)
        again = resume("--json")
        assert json.loads(again.out)["rows"] == ROWS
        assert f"rows={found * PIECE}" in again.err
        assert (here / "out.csv").read_bytes() == expected

    def test_processes_that_die_again_and_again_are_given_up(
        self, start: Start, resume: Callable[..., Ran], here: Path, expected: bytes
    ) -> None:
        process = start()
        while process.poll() is None:
            for one in _children(process.pid):
                if "spawn_main" in " ".join(_command_line(one)):
                    with contextlib.suppress(psutil.Error):  # it went by itself
                        one.kill()
            time.sleep(0.01)
        ran = ended(process)
        assert ran.code == 1
        assert "the processes that predict die again and again. Is there memory enough?" in ran.err
        assert resume().code == 0
        assert (here / "out.csv").read_bytes() == expected


def _children(pid: int) -> list[psutil.Process]:
    """None of one that ended since it was looked at."""
    try:
        return list(psutil.Process(pid).children())
    except psutil.Error:
        return []


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


class TestStopped:
    @pytest.mark.parametrize("everybody", [True, False])
    def test_ctrl_c_ends_it_at_once_with_a_hint(
        self, start: Start, resume: Callable[..., Ran], here: Path, expected: bytes, everybody: bool
    ) -> None:
        process = start()
        wait_until(lambda: parts(here) >= 3, process)
        started = family(psutil.Process(process.pid))
        for one in started if everybody else started[:1]:  # a terminal tells all, `kill -INT` one
            os.kill(one.pid, signal.SIGINT)
        ran = ended(process, 10)
        assert ran.code == 130
        assert ran.err.endswith("\naisle: stopped\n")
        assert "Traceback" not in ran.err
        assert "the same command with --resume goes on from here" in ran.err
        assert psutil.wait_procs(started, timeout=10)[1] == []
        assert resume().code == 0
        assert (here / "out.csv").read_bytes() == expected

    def test_a_table_that_changes_before_it_goes_on_is_refused(
        self, start: Start, resume: Callable[..., Ran], here: Path, expected: bytes
    ) -> None:
        process = start()
        wait_until(lambda: parts(here) >= 3, process)
        os.kill(process.pid, signal.SIGINT)
        ended(process)
        before = parts(here)
        text = (here / "in.csv").read_bytes()
        (here / "in.csv").write_bytes(text.replace(b"livre", b"ivres"))
        ran = resume()
        assert ran.code == 2
        assert "the table, the model or an option has changed" in ran.complaint
        assert parts(here) == before
        assert not (here / "out.csv").exists()


class TestFullDisk:
    @pytest.mark.parametrize("limit", [200, 20_000])  # too little for a part; for the whole only
    @pytest.mark.parametrize("threads", ["1", "2"])
    def test_it_is_one_line_and_goes_on_when_there_is_room(
        self,
        processes: Processes,
        bundle: Bundle,
        resume: Callable[..., Ran],
        here: Path,
        expected: bytes,
        limit: int,
        threads: str,
    ) -> None:
        assert len(expected) > limit
        (here / "out.csv").write_bytes(b"earlier")
        quiet = here / "elsewhere"
        ran = processes.run(*words(bundle), cwd=here, limit=limit, THREADS=threads, LOGS_PATH=quiet)
        assert ran.code == 1
        assert ran.complaint == "out.csv: File too large"
        assert (here / "out.csv").read_bytes() == b"earlier"
        assert leftovers(here) == []
        assert parts(here) == (0 if limit == 200 else PIECES)
        assert resume().code == 0
        assert (here / "out.csv").read_bytes() == expected


class TestBucket:
    @pytest.mark.parametrize("gone", ["bucket", "server"])
    def test_one_that_vanishes_ends_it_with_one_line_in_bounded_time(
        self, processes: Processes, bundle: Bundle, here: Path, s3: S3, gone: str
    ) -> None:
        s3.put("in.csv", (here / "in.csv").read_bytes())
        command = words(bundle, source="s3://shop/in.csv", output="s3://shop/out.csv")
        process = processes.start(*command, cwd=here, THREADS="2", S3_ENDPOINT_URL=s3.endpoint)
        wait_until(lambda: sum("/part-" in key for key in s3.names()) >= 3, process)
        if gone == "bucket":
            os.kill(process.pid, signal.SIGSTOP)  # or it would finish a part between two deletions
            stopped = family(psutil.Process(process.pid))
            for one in stopped[1:]:
                one.suspend()
            s3.remove_bucket()
            for one in stopped:
                one.resume()
        else:
            s3.stop()
        started = time.monotonic()
        ran = ended(process, 120)
        assert time.monotonic() - started < 90
        assert ran.code in ((3, 5) if gone == "bucket" else (5,))
        assert ran.complaint.startswith("s3://shop/")
        assert "secret" not in ran.err

    def test_a_run_that_was_killed_goes_on_there(
        self, processes: Processes, bundle: Bundle, here: Path, s3: S3, expected: bytes
    ) -> None:
        s3.put("in.csv", (here / "in.csv").read_bytes())
        command = words(bundle, source="s3://shop/in.csv", output="s3://shop/out.csv")
        command += ["--piece-rows", "64"]  # each costs the server a few requests
        process = processes.start(*command, cwd=here, THREADS="2", S3_ENDPOINT_URL=s3.endpoint)
        wait_until(lambda: sum("/part-" in key for key in s3.names()) >= 5, process)
        for one in family(psutil.Process(process.pid)):
            one.kill()
        ended(process)
        ran = processes.run(*command, "--resume", cwd=here, THREADS="2", S3_ENDPOINT_URL=s3.endpoint)
        assert ran.code == 0
        assert "going on where a run stopped" in ran.err
        assert s3.get("out.csv") == expected
        assert [key for key in s3.names() if not key.endswith("/")] == ["in.csv", "out.csv"]

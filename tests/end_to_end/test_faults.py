"""A kill at the worst moment, a full disk, logs that cannot be written: what is there is whole, and work goes on."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
from tests.end_to_end.conftest import Files, Processes, Ran, contents, leftovers, read_csv, wait_until, write_shop

from aisle.data.raw import IMAGES_ZIP, LABELS_FILE, TEST_FILE, TRAIN_FILE, check_raw_folder
from aisle.data.source import MANIFEST_FILE
from aisle.errors import InputError
from aisle.files import TEMPORARY_PREFIX, read_json
from aisle.model.bundle import MANIFEST_FILE as BUNDLE_MANIFEST
from aisle.registry.bundles import BundleStore

ROWS = 540


def kill_when(seen: Callable[[], object], process: subprocess.Popen[str]) -> None:
    with process:
        wait_until(seen, process)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def found(folder: Path, pattern: str) -> bool:
    """Whether a file is there: a whole one, unless the pattern asks for temporary ones."""
    whole = (path for path in folder.glob(pattern) if not path.name.startswith(TEMPORARY_PREFIX))
    return any(folder.glob(pattern)) if TEMPORARY_PREFIX in pattern else any(whole)


class TestKilledImport:
    """`aisle import --source sample`, killed by signal 9."""

    MOMENTS: Mapping[str, str] = {
        "while it draws the images": ".sample/.tmp-*",
        "when it has drawn them": f".sample/{LABELS_FILE}",
        "when the first table is there": TRAIN_FILE,
    }

    @pytest.mark.parametrize(
        "moment",
        [pytest.param(moment, marks=pytest.mark.slow if place else ()) for place, moment in enumerate(MOMENTS)],
    )
    def test_what_is_there_is_whole_and_the_next_run_ends_as_if_nothing_had_been(
        self, processes: Processes, sample: Path, here: Path, moment: str
    ) -> None:
        words, raw = ("import", "--source", "sample", "--rows", ROWS), here / "data" / "raw"
        wanted = contents(sample)
        kill_when(partial(found, raw, self.MOMENTS[moment]), processes.start(*map(str, words), cwd=here))

        for name, content in catalogue(raw).items():
            assert content == wanted[name]
        if not (raw / LABELS_FILE).is_file():
            with pytest.raises(InputError, match="is not a catalogue"):
                check_raw_folder(raw)

        assert processes.run(*map(str, words), cwd=here).code == 0
        assert catalogue(raw) == wanted


def catalogue(raw: Path) -> Files:
    """The files of a catalogue, without the import's own notes and what a killed one has not finished."""
    return {name: one for name, one in contents(raw).items() if name != MANIFEST_FILE and not name.startswith(".")}


@pytest.fixture(scope="module")
def sums(processes: Processes, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The sums of a bundle whose training nobody disturbed."""
    return train(processes, shop(tmp_path_factory.mktemp("undisturbed"), sample))


# The others, and two of them one after the other, are among the long runs.
QUICK_MOMENTS = ("when the first stage is there",)


@pytest.mark.slow
class TestKilledTraining:
    """`aisle train`, killed by signal 9, and run again in the same folder."""

    # The file whose appearance is the moment → what the next run says that it need not do again.
    MOMENTS: Mapping[str, tuple[str, str]] = {
        "while it validates": (f"data/{TEMPORARY_PREFIX}*/products.parquet", ""),
        "when the rows are validated": ("data/validated/validated.json", ""),
        "when the first features are there": ("data/cache/features/*/*.safetensors", "cached=256"),
        "when the first stage is there": ("data/cache/training/*/train-title.safetensors", "stage=train-title"),
        "when the last stage is there": ("data/cache/training/*/final-image.safetensors", "stage=final-image"),
        "before the bundle is in the store": (f"models/{TEMPORARY_PREFIX}*/bundle/{BUNDLE_MANIFEST}", ""),
    }

    @pytest.mark.parametrize(
        "moment", [pytest.param(one, marks=() if one in QUICK_MOMENTS else pytest.mark.soak) for one in MOMENTS]
    )
    def test_the_next_run_ends_with_the_same_sums(
        self, processes: Processes, sample: Path, here: Path, sums: dict[str, str], moment: str
    ) -> None:
        file, said = self.MOMENTS[moment]
        shop(here, sample)
        kill_when(partial(found, here, file), processes.start("train", cwd=here))
        assert BundleStore(here / "models").versions() == []
        assert train(processes, here, said) == sums

    @pytest.mark.soak
    def test_two_kills_are_no_worse_than_one(
        self, processes: Processes, sample: Path, here: Path, sums: dict[str, str]
    ) -> None:
        shop(here, sample)
        for moment in ("when the first features are there", "when the first stage is there"):
            seen = partial(found, here, self.MOMENTS[moment][0])
            kill_when(seen, processes.start("train", cwd=here))
        assert train(processes, here, "stage=train-title") == sums


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_a_training_killed_at_any_time_ends_with_the_same_sums(
    processes: Processes, sample: Path, here: Path, sums: dict[str, str], seed: int
) -> None:
    shop(here, sample)
    with processes.start("train", cwd=here) as process, contextlib.suppress(subprocess.TimeoutExpired):
        try:
            process.wait(timeout=random.Random(seed).uniform(0.5, 15))
        finally:
            process.kill()
    assert train(processes, here) == sums


def shop(place: Path, sample: Path) -> Path:
    """The sample as the raw data of a working folder."""
    (place / "data").mkdir()
    (place / "data" / "raw").symlink_to(sample)
    return place


def train(processes: Processes, place: Path, said: str = "") -> dict[str, str]:
    """The sums of the one bundle that is in the store after a training that goes well."""
    ran = processes.run("train", cwd=place)
    assert ran.code == 0, ran.err
    assert said in ran.err
    [version] = BundleStore(place / "models").versions()
    sums: dict[str, str] = read_json(place / "models" / version / BUNDLE_MANIFEST)["files"]
    return sums


# --- Full disks


class Disk:
    """A small disk of its own (Linux, root)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def resize(self, size: str, how: str = "remount,") -> bool:
        command = ["mount", "-t", "tmpfs", "-o", f"{how}size={size}", "tmpfs", str(self.folder)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture
def disk(here: Path) -> Iterator[Disk]:
    disk = Disk(here / "disk")
    if not shutil.which("mount") or os.geteuid() != 0 or not disk.resize("20k", how=""):
        pytest.skip("a small disk needs Linux, root and the right to mount")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk.folder)], check=True)


FULL = "the disk is full. Nothing was half-written; make room and run the same command again."


class TestFullDisk:
    """One clear line, exit 1, nothing half-written, and with more room the same command ends well."""

    def check(
        self, processes: Processes, disk: Disk, words: list[str], says: str, store: Path = Path("models")
    ) -> None:
        before = contents(disk.folder)
        logs = disk.folder.parent / "logs"
        ran = processes.run(*words, cwd=disk.folder, LOGS_PATH=logs, MODELS_PATH=store)
        assert ran.code == 1
        assert ran.out == ""
        assert says in ran.complaint
        assert leftovers(disk.folder) == []
        assert not list(disk.folder.rglob(".sample"))
        after = contents(disk.folder)
        assert {name: after.get(name) for name in before} == before
        assert disk.resize("64m")
        again = processes.run(*words, cwd=disk.folder, LOGS_PATH=logs, MODELS_PATH=store)
        assert again.code == 0, again.err

    @pytest.mark.parametrize(
        "size", ["20k", pytest.param("1m", marks=pytest.mark.slow), pytest.param("4600k", marks=pytest.mark.slow)]
    )
    def test_of_an_import(self, processes: Processes, sample: Path, disk: Disk, size: str) -> None:
        disk.resize(size)
        words = ["import", "--source", str(sample), "--to", "raw"]
        self.check(processes, disk, words, "Make room or change its rights, then run the same command again.")
        assert catalogue(disk.folder / "raw") == contents(sample)

    def test_of_a_sample_that_is_drawn(self, processes: Processes, disk: Disk) -> None:
        disk.resize("1m")
        words = ["import", "--source", "sample", "--rows", "270", "--to", "raw"]
        self.check(processes, disk, words, f"raw/.sample/{IMAGES_ZIP}: cannot be read or written: No space left")

    def test_of_a_validation(self, processes: Processes, here: Path, disk: Disk) -> None:
        write_shop(here / "shop")
        disk.resize("8k")  # too little for the first table
        self.check(processes, disk, ["validate", "--data", "../shop", "--out", "out"], f"out: {FULL}")
        assert {"products.parquet", "report.html", "validated.json"} <= contents(disk.folder / "out").keys()

    def test_of_a_prediction_which_leaves_the_earlier_one(
        self, processes: Processes, sample: Path, disk: Disk, store: BundleStore
    ) -> None:
        (disk.folder / "out.csv").write_text("earlier")
        words = ["predict", str(sample / TEST_FILE), "--output", "out.csv"]
        self.check(processes, disk, words, f"out.csv: {FULL}", store=store.root)
        assert len(read_csv(disk.folder / "out.csv")) == ROWS // 9

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "size", ["60k", *(pytest.param(size, marks=pytest.mark.soak) for size in ("1m", "5m", "20m"))]
    )
    def test_of_a_training(self, processes: Processes, sample: Path, disk: Disk, size: str) -> None:
        disk.resize(size)
        self.check(processes, disk, ["train", "--data", str(sample), "--out", "bundle"], FULL)


class TestFileLimit:
    """The same for a process that may write no file beyond a limit: this needs no rights."""

    def test_a_sample_that_is_drawn(self, processes: Processes, here: Path) -> None:
        words = ("import", "--source", "sample", "--rows", "54", "--to", "raw")
        ran = processes.run(*words, cwd=here, limit=100_000)
        assert ran.code == 1
        assert "cannot be read or written: File too large" in ran.complaint
        assert catalogue(here / "raw") == {}

    def test_a_validation(self, processes: Processes, here: Path) -> None:
        write_shop(here / "shop")
        ran = processes.run("validate", "--data", "shop", "--out", "out", cwd=here, limit=3_000)
        assert (ran.code, ran.complaint) == (1, "out: File too large")
        assert not (here / "out").exists()
        assert leftovers(here) == []

    @pytest.mark.parametrize("output", ["out.parquet", pytest.param("out.csv", marks=pytest.mark.slow)])
    def test_a_prediction(
        self, processes: Processes, here: Path, sample: Path, store: BundleStore, output: str
    ) -> None:
        words = ("predict", sample / TEST_FILE, "--output", output)
        ran = processes.run(*words, cwd=here, limit=3_000, MODELS_PATH=store.root)
        assert (ran.code, ran.complaint) == (1, f"{output}: File too large")
        assert contents(here) == {}


class TestLogs:
    """Logs that cannot be written stop no work, and one line says so."""

    WORDS = ("validate", "--data", "../shop", "--out", "../out")

    @pytest.fixture
    def work(self, here: Path) -> Path:
        write_shop(here / "shop")
        (here / "work").mkdir()
        return here / "work"

    def check(self, ran: Ran, here: Path) -> None:
        assert ran.code == 0, ran.err
        assert (here / "out" / "validated.json").is_file()
        assert "Traceback" not in ran.err
        assert ran.err.count("log file not written") == 1

    def test_a_file_where_the_folder_should_be(
        self, run: Callable[..., Ran], here: Path, work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (work / "logs").write_text("a file")
        monkeypatch.setenv("LOGS_PATH", "logs")
        monkeypatch.chdir(work)
        self.check(run(*self.WORDS), here)

    def test_a_log_that_takes_no_line(
        self, run: Callable[..., Ran], here: Path, work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (work / "logs").mkdir()
        (work / "logs" / "import_data_logger.log").symlink_to("/dev/full")
        monkeypatch.setenv("LOGS_PATH", "logs")
        monkeypatch.chdir(work)
        self.check(run(*self.WORDS), here)

    def test_a_full_disk(self, processes: Processes, here: Path, work: Path, disk: Disk) -> None:
        with pytest.raises(OSError, match="No space left"):
            (disk.folder / "filled").write_bytes(bytes(1 << 20))
        self.check(processes.run(*self.WORDS, cwd=work, LOGS_PATH=disk.folder), here)

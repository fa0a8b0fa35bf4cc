"""The real command line on real files: in this process where that is enough, in one of its own where it is not."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from aisle.cli import main
from aisle.data.raw import LABELS_FILE, TRAIN_FILE, image_stem
from aisle.files import TEMPORARY_PREFIX
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.settings import Settings

Files = dict[str, bytes]
COMMAND = Path(sys.executable).with_name("aisle")
LIMITED = (
    "import os, resource, sys; limit = int(sys.argv[1])\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)); os.execv(sys.argv[2], sys.argv[2:])"
)
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT")


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line that is left of standard error without the log's lines, which begin with their time."""
        lines = [line for line in self.err.splitlines() if not LOG_LINE.match(line)]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("aisle: ")
        return lines[0].removeprefix("aisle: ")


class Processes:
    """The `aisle` command as a process, in a folder of its own choice and without the developer's settings."""

    def start(self, *words: str | Path, cwd: Path, limit: int = 0, **variables: str | Path) -> subprocess.Popen[str]:
        """`limit`: no file may grow beyond so many bytes, which is how a full disk feels to a process."""
        limited = [sys.executable, "-c", LIMITED, str(limit)] if limit else []
        return subprocess.Popen(
            [*limited, str(COMMAND), *map(str, words)],
            cwd=cwd,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def environment(**variables: str | Path) -> dict[str, str]:
        ours = {name.upper() for name in Settings.model_fields}
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        # Without git a bundle's lineage names the package's version: commits made meanwhile change no sum.
        kept |= {"GIT_DIR": os.devnull, "MLFLOW_TRACKING_URI": "off"}
        return kept | {name: str(value) for name, value in variables.items()}

    def run(self, *words: str | Path, cwd: Path, limit: int = 0, **variables: str | Path) -> Ran:
        with self.start(*words, cwd=cwd, limit=limit, **variables) as process:
            out, err = process.communicate(timeout=600)
        return Ran(process.returncode, out, err)


@pytest.fixture(scope="session")
def processes() -> Processes:
    return Processes()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`run("validate", "--out", folder)`: the command line in this process, in the test's own folder."""

    def run(*words: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["aisle", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        seen = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Ran(stopped.value.code, seen.out, seen.err)

    return run


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The working folder of the test."""
    return tmp_path


@pytest.fixture(scope="session")
def store(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> BundleStore:
    """A store with the bundle of all tests as its champion. Read it, do not write to it."""
    store = BundleStore(tmp_path_factory.mktemp("store") / "models")
    store.add(bundle)
    store.make_champion(bundle.version)
    return store


def contents(folder: Path) -> Files:
    """Every file below a folder but logs, cache and figures: what a command that refuses its input must not touch."""
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    others = ("logs/", "data/cache/", "data/metrics/")
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(others)}


def leftovers(folder: Path) -> list[Path]:
    """What a write that was not finished left behind."""
    return sorted(folder.rglob(f"{TEMPORARY_PREFIX}*"))


def wait_until(seen: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Look again and again until `seen`; it is a failure when the process ends first."""
    deadline = time.monotonic() + 300
    while not seen():
        if process.poll() is not None:
            pytest.fail(f"the process ended first: {process.communicate()[1]}")
        assert time.monotonic() < deadline
        time.sleep(0.001)


def write_shop(folder: Path, *, products: int = 120, codes: tuple[str, ...] = ("L1", "P2"), images: int = 0) -> Path:
    """A small catalogue without a fault: products of two kinds with keys 0, 1, …, the first few with `images`.

    Its codes are not Rakuten's, and it has no table of types.
    """
    words = ("livre roman ancien", "piscine gonflable bleue")
    rows = [
        [key, f"{words[key % 2]} {chr(97 + key % 26)}{chr(97 + key // 26)}", "", 1000 + key, 2000 + key]
        for key in range(products)
    ]
    write_csv(folder / TRAIN_FILE, [["", "designation", "description", "productid", "imageid"], *rows])
    labels = [[key, codes[key % len(codes)]] for key in range(products)]
    write_csv(folder / LABELS_FILE, [["", "prdtypecode"], *labels])
    for key in range(images):
        path = image_path(folder, key)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture(key))
    return folder


def image_path(shop: Path, key: int) -> Path:
    return shop / "image_train" / f"{image_stem(str(1000 + key), str(2000 + key))}.jpg"


def picture(number: int, kind: str = "JPEG") -> bytes:
    """A small picture that looks like no other."""
    draw = Random(number)
    image = Image.new("RGB", (4, 4))
    image.putdata([(draw.randrange(256), draw.randrange(256), draw.randrange(256)) for _ in range(16)])
    buffer = io.BytesIO()
    image.resize((48, 48)).save(buffer, kind)
    return buffer.getvalue()


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def edit_csv(path: Path, change: Callable[[list[dict[str, str]]], object]) -> None:
    """Let `change` work on the rows of a table."""
    rows = read_csv(path)
    header = list(rows[0])
    change(rows)
    write_csv(path, [header, *(list(row.values()) for row in rows)])

"""What a retraining learnt from is a version of DVC, where there is one, and comes back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from aisle.errors import ServiceMissing
from aisle.files import sha256_file
from aisle.loop.corrections import CATALOGUE, CORRECTIONS_FILE, collect
from aisle.loop.versions import version_by_dvc
from aisle.store.predictions import Word

ROOT = Path(__file__).parents[2]


def collected(repository: Path, sample: Path, *titles: str) -> Path:
    folder = repository / "data" / "retraining"
    words = [
        Word(number, f"p{number}", f"{number:064}", None, title, "", "anne", "10")
        for number, title in enumerate(titles)
    ]
    collect(words, sample, folder, reviewer_share=1)
    return folder


def test_without_dvc_the_sum_of_the_corrections_is_what_there_is(sample: Path, tmp_path: Path) -> None:
    folder = collected(tmp_path, sample, "Livre ancien")
    assert version_by_dvc(folder, "retraining 1") == {
        "corrections": sha256_file(folder / CORRECTIONS_FILE),
        "commit": None,
    }


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With DVC, a folder as its remote, and data that git does not see."""
    if find_spec("dvc") is None:
        pytest.skip("DVC is not installed")
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "t")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "t")
    place = tmp_path / "repository"
    place.mkdir()
    for command in (
        ["git", "init", "--quiet"],
        [sys.executable, "-m", "dvc", "init", "--quiet"],
        [sys.executable, "-m", "dvc", "remote", "add", "-d", "shelf", str(tmp_path / "shelf")],
        ["git", "add", "--all"],
        ["git", "commit", "--quiet", "-m", "the code"],
    ):
        subprocess.run(command, cwd=place, check=True, capture_output=True)
    shutil.copyfile(ROOT / ".gitignore", place / ".gitignore")
    return place


@pytest.mark.slow
def test_each_version_comes_back_from_its_commit(repository: Path, sample: Path) -> None:
    folder = collected(repository, sample, "Livre ancien")
    first = version_by_dvc(folder, "retraining 1")
    sums = {path.name: sha256_file(path) for path in (folder / CATALOGUE).glob("*.csv")}
    collected(repository, sample, "Livre ancien", "Piscine ronde")
    second = version_by_dvc(folder, "retraining 2")
    assert first["commit"] != second["commit"]
    for command in (["git", "checkout", "--quiet", str(first["commit"])], [sys.executable, "-m", "dvc", "pull"]):
        subprocess.run(command, cwd=repository, check=True, capture_output=True)
    assert {path.name: sha256_file(path) for path in (folder / CATALOGUE).glob("*.csv")} == sums


@pytest.mark.slow
def test_twice_the_same_is_one_version(repository: Path, sample: Path) -> None:
    folder = collected(repository, sample, "Livre ancien")
    assert version_by_dvc(folder, "retraining 1") == version_by_dvc(folder, "retraining 1")


@pytest.mark.slow
def test_a_dvc_that_fails_is_a_service_that_is_missing(repository: Path, sample: Path) -> None:
    folder = collected(repository, sample, "Livre ancien")
    shutil.rmtree(repository / ".dvc")
    (repository / ".dvc").mkdir()
    (repository / ".dvc" / "config").write_text("this is no configuration")
    with pytest.raises(ServiceMissing, match="dvc commit"):
        version_by_dvc(folder, "retraining 1")

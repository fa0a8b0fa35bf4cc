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
from aisle.loop.versions import NOTE, version_by_dvc
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
    assert version_by_dvc(folder) == {"corrections": sha256_file(folder / CORRECTIONS_FILE), "note": None}


def git(repository: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=repository, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def dvc(repository: Path, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=repository, check=True, capture_output=True)


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
    git(place, "init", "--quiet")
    dvc(place, "init", "--quiet")
    dvc(place, "remote", "add", "-d", "shelf", str(tmp_path / "shelf"))
    shutil.copyfile(ROOT / ".gitignore", place / ".gitignore")
    git(place, "add", "--all")
    git(place, "commit", "--quiet", "-m", "the code")
    return place


@pytest.mark.slow
def test_each_version_comes_back_from_its_note(repository: Path, sample: Path) -> None:
    folder = collected(repository, sample, "Livre ancien")
    first = version_by_dvc(folder)
    sums = {path.name: sha256_file(path) for path in (folder / CATALOGUE).glob("*.csv")}
    collected(repository, sample, "Livre ancien", "Piscine ronde")
    second = version_by_dvc(folder)
    assert first["note"] != second["note"]
    (repository / NOTE).write_text(str(first["note"]))
    shutil.rmtree(repository / ".dvc" / "cache")  # so that it comes from where it was pushed to
    dvc(repository, "pull", "--force")
    assert {path.name: sha256_file(path) for path in (folder / CATALOGUE).glob("*.csv")} == sums


@pytest.mark.slow
def test_nobody_s_branch_and_nothing_that_is_staged_moves(repository: Path, sample: Path) -> None:
    before = git(repository, "rev-parse", "HEAD")
    version_by_dvc(collected(repository, sample, "Livre ancien"))
    assert git(repository, "rev-parse", "HEAD") == before
    assert git(repository, "status", "--porcelain") == f"?? {NOTE}"


@pytest.mark.slow
def test_twice_the_same_is_one_version(repository: Path, sample: Path) -> None:
    folder = collected(repository, sample, "Livre ancien")
    assert version_by_dvc(folder) == version_by_dvc(folder)


@pytest.mark.slow
def test_a_dvc_that_fails_is_a_service_that_is_missing(repository: Path, sample: Path) -> None:
    folder = collected(repository, sample, "Livre ancien")
    shutil.rmtree(repository / ".dvc")
    (repository / ".dvc").mkdir()
    (repository / ".dvc" / "config").write_text("this is no configuration")
    with pytest.raises(ServiceMissing, match="dvc commit"):
        version_by_dvc(folder)

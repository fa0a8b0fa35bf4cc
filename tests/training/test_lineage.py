"""The revision of the code: another code is never taken for the same."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import aisle
from aisle.training.lineage import code_revision, package_versions


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "aisle"
    package.mkdir()
    (package / "__init__.py").write_text("")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(aisle, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(aisle, "__path__", [str(package)])
    return package


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True)
    assert code_revision() == head.stdout.strip()


def test_each_change_is_another_revision(checkout: Path) -> None:
    seen = {code_revision()}
    for text in ("a = 1", "a = 2"):
        (checkout / "new.py").write_text(text)
        seen.add(code_revision())
    assert len(seen) == 3
    (checkout / "new.py").unlink()
    assert code_revision() in seen


def test_outside_a_checkout_it_is_the_packages_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aisle, "__file__", str(tmp_path / "__init__.py"))
    assert code_revision() == f"aisle {aisle.__version__}"


def test_in_somebody_elses_repository_it_is_the_packages_version(checkout: Path) -> None:
    (checkout.parent / ".gitignore").write_text("aisle/\n")
    subprocess.run(["git", "rm", "-rq", "--cached", "aisle"], cwd=checkout.parent, check=True)
    assert code_revision() == f"aisle {aisle.__version__}"


def test_the_packages_that_compute_are_named_with_their_versions() -> None:
    assert set(package_versions()) >= {"numpy", "scikit-learn", "onnxruntime"}

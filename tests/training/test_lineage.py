"""The revision of the code: another code is never taken for the same."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import aisle
from aisle.data.prepare import Prepared
from aisle.settings import get_settings
from aisle.training.lineage import code_revision, package_versions
from aisle.training.recipes import light, lstm_vgg16
from aisle.training.train import lineage_of


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


def test_a_commit_of_something_else_is_no_other_code(checkout: Path) -> None:
    before = code_revision()
    (checkout.parent / "data.dvc").write_text("outs: []\n")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["add", "."], [*identity, "commit", "-qm", "data"]):
        subprocess.run(["git", *words], cwd=checkout.parent, check=True)
    assert code_revision() == before


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


def test_what_keras_computes_with_is_part_of_the_lineage_of_networks(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a training that was killed does not go on under another backend."""
    found = {}
    for backend in ("", "jax"):
        if backend:
            monkeypatch.setenv("KERAS_BACKEND", backend)
        get_settings.cache_clear()
        found[backend] = lineage_of(lstm_vgg16("none"), prepared)
    assert (found[""]["keras_backend"], found["jax"]["keras_backend"]) == ("tensorflow", "jax")
    assert "keras_backend" not in lineage_of(light(), prepared)


def test_keras_is_told_what_the_settings_say(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("KERAS_HOME=/kept/here\nKERAS_BACKEND=jax\n")
    script = "import os; from aisle.settings import provide_keras; provide_keras(); print(dict(os.environ))"
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True)
    environment = ast.literal_eval(ran.stdout)
    assert (environment["KERAS_HOME"], environment["KERAS_BACKEND"]) == ("/kept/here", "jax")

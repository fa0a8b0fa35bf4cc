"""The disk is full at each write in turn: what was there stays whole, and with room the same call ends well.

The verbs and a real small disk are in tests/end_to_end/test_faults.py, a worker's in tests/batch/test_workers.py, the
journal's in tests/service/test_journal.py.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aisle.files import TEMPORARY_PREFIX, atomic_folder, read_json, write_json, write_private_text
from aisle.loop.corrections import Correction, read_corrections, write_corrections
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore

Struck = list[int]


class Full(OSError):
    """No other error is let pass."""


def fail_at(patch: pytest.MonkeyPatch, number: int) -> Struck:
    """The write of this number, counted from 0, finds the disk full; what the list has, was struck."""
    sync, count, struck = os.fsync, itertools.count(), Struck()

    def full(handle: int) -> None:
        at = next(count)
        if at == number:
            struck.append(at)
            raise Full(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    patch.setattr(os, "fsync", full)
    return struck


def at_each_write(
    monkeypatch: pytest.MonkeyPatch, folder: Path, work: Callable[[], object], check: Callable[[], object]
) -> int:
    """How many writes `work` has: each failed once, after which `check` held."""
    for number in itertools.count():
        with monkeypatch.context() as patch:
            struck = fail_at(patch, number)
            with contextlib.suppress(Full):
                work()
        if not struck:
            return number
        assert not list(folder.rglob(f"{TEMPORARY_PREFIX}*"))
        check()
    raise AssertionError("unreachable")


def one_of(*values: object) -> Callable[[object], None]:
    def check(found: object) -> None:
        assert found in values

    return check


def test_a_table_is_the_one_before_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, before, after = tmp_path / "table.json", {"a": 1}, {"a": 2}
    write_json(path, before)
    either = one_of(before, after)
    writes = at_each_write(monkeypatch, tmp_path, lambda: write_json(path, after), lambda: either(read_json(path)))
    assert writes == 2
    assert read_json(path) == after


def test_a_secret_is_the_one_before_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, either = tmp_path / "key", one_of("before", "after")
    write_private_text(path, "before")
    work = lambda: write_private_text(path, "after")  # noqa: E731
    assert at_each_write(monkeypatch, tmp_path, work, lambda: either(path.read_text())) == 2
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_is_the_one_before_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bundle"

    def write(content: str) -> None:
        with atomic_folder(folder) as new:
            for name in ("a", "b", "c"):
                (new / name).write_text(content)

    def whole() -> None:
        assert {path.read_text() for path in folder.iterdir()} in ({"before"}, {"after"})
        assert len(list(folder.iterdir())) == 3

    write("before")
    assert at_each_write(monkeypatch, tmp_path, lambda: write("after"), whole) == 4


def test_corrections_are_those_of_before_or_the_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "corrections.csv"
    old, new = (Correction("hash", key, "Piscine", "", "2583", "anne", 1.0, 1) for key in ("old", "new"))
    write_corrections(path, [old])

    def check() -> None:
        assert {one.product_key for one in read_corrections(path).values()} in ({"old"}, {"new"})

    assert at_each_write(monkeypatch, tmp_path, lambda: write_corrections(path, [new]), check) >= 1


def test_a_promotion_happened_or_did_not(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BundleStore(tmp_path / "models")

    def promote() -> None:
        store.add(bundle)
        store.make_champion(bundle.version)

    def check() -> None:
        assert store.serving().champion in (None, bundle.version)
        for version in store.versions():
            Bundle.load(store.root / version)

    at_each_write(monkeypatch, tmp_path, promote, check)
    assert store.serving().champion == bundle.version

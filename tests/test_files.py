"""Files are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from aisle.files import atomic_folder, atomic_path, read_json, sha256_json, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_nobody_sees_a_file_before_it_is_whole(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "deep" / "a.txt") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "deep" / "a.txt").exists()
    assert (tmp_path / "deep" / "a.txt").read_text() == "new"


def test_a_written_file_has_ordinary_rights(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_folder_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with atomic_folder(tmp_path / "out") as folder:
            write_text(folder / name, name)
    assert names(tmp_path / "out") == ["two"]
    assert names(tmp_path) == ["out"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as folder:
        write_text(folder / "one", "1")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as folder:
        write_text(folder / "two", "2")
        raise RuntimeError
    assert names(tmp_path / "out") == ["one"]
    assert names(tmp_path) == ["out"]


def test_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": "é"})
    write_json(tmp_path / "b", {"a": "é", "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_json(tmp_path / "a") == {"a": "é", "b": 1}


def test_a_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})

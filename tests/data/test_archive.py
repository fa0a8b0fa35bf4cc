"""A zip of images is taken whole or not at all."""

from __future__ import annotations

import io
import os
import random
import stat
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from aisle.data import archive
from aisle.data.archive import check_archive
from aisle.errors import ArchiveError

JPEG = b"\xff\xd8 an image \xff\xd9"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "images.zip"


def pack(path: Path, entries: dict[str, bytes], **options: int) -> None:
    with zipfile.ZipFile(path, "w", **options) as packed:  # type: ignore[call-overload]
        for name, content in entries.items():
            packed.writestr(name, content)


def pack_info(path: Path, name: str, change: Callable[[zipfile.ZipInfo], None]) -> None:
    info = zipfile.ZipInfo(name)
    change(info)
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(info, JPEG)


def local(name: str, content: bytes, *, extra: bytes = b"") -> bytes:
    header = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, len(content), len(content), len(name), len(extra))
    return header + name.encode() + extra + content


def directory(entries: list[tuple[str, int, int]], start: int) -> bytes:
    """The end of a zip of stored entries: (name, size, where it claims to begin)."""
    records = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, size, size, len(name), 0, 0, 0, 0, 0, offset)
        + name.encode()
        for name, size, offset in entries
    )
    count = len(entries)
    return records + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(records), start, 0)


def test_a_zip_of_images_is_accepted(path: Path) -> None:
    pack(path, {"images/": b"", "images/image_train/été.jpg": JPEG, "images/image_test/b.jpg": JPEG * 9})
    check_archive(path)


def test_a_zip_with_packed_entries_and_a_comment_is_accepted(path: Path) -> None:
    pack(path, {"a.jpg": JPEG * 99}, compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path, "a") as packed:
        packed.comment = b"a comment"
    check_archive(path)


def test_an_empty_zip_is_accepted(path: Path) -> None:
    pack(path, {})
    check_archive(path)


def test_a_zip_that_was_written_to_a_pipe_is_accepted(path: Path) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.written = b""

        def writable(self) -> bool:
            return True

        def write(self, content: object) -> int:
            self.written += bytes(content)  # type: ignore[call-overload]
            return len(content)  # type: ignore[arg-type]

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as packed:
        packed.writestr("a.jpg", JPEG)
        packed.writestr("b.jpg", JPEG)
    path.write_bytes(pipe.written)
    check_archive(path)


def test_a_zip64_is_accepted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)  # what else takes 4 GiB
    pack(path, {"a.jpg": JPEG, "b.jpg": JPEG})
    assert b"PK\6\6" in path.read_bytes()
    check_archive(path)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../a.jpg",
        "images/../../a.jpg",
        "images/..",
        "C:/a.jpg",
        "c:a.jpg",
        "..\\a.jpg",
        "images\\a.jpg",
    ],
)
def test_a_path_outside_is_refused(path: Path, name: str) -> None:
    pack(path, {"images/a.jpg": JPEG, name: JPEG})
    with pytest.raises(ArchiveError, match="leads outside") as caught:
        check_archive(path)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["a\nb.jpg", "\x1b[31m.jpg"])
def test_a_name_that_writes_to_the_terminal_is_refused_and_not_shown(path: Path, name: str) -> None:
    pack(path, {name: JPEG})
    with pytest.raises(ArchiveError) as caught:
        check_archive(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_a_link_or_a_device_is_refused(path: Path, kind: int) -> None:
    def change(info: zipfile.ZipInfo) -> None:
        info.external_attr = (kind | 0o777) << 16

    pack_info(path, "a.jpg", change)
    with pytest.raises(ArchiveError, match="link or a device"):
        check_archive(path)


def test_the_same_name_twice_is_refused(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a.jpg", JPEG)
        with pytest.warns(UserWarning, match="Duplicate"):
            packed.writestr("a.jpg", JPEG)
    with pytest.raises(ArchiveError, match="twice"):
        check_archive(path)


@pytest.mark.parametrize("where", ["the directory", "the entry"])
def test_an_encrypted_entry_is_refused(path: Path, where: str) -> None:
    pack(path, {"a.jpg": JPEG})
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\1\2") + 8 if where == "the directory" else 6
    content[at] |= 1
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="encrypted"):
        check_archive(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_packing_whose_size_nothing_bounds_is_refused(path: Path, method: int) -> None:
    pack(path, {"a.jpg": JPEG * 99}, compression=method)
    with pytest.raises(ArchiveError, match="method"):
        check_archive(path)


def test_a_bomb_in_one_entry_is_refused(path: Path) -> None:
    pack(path, {"a.jpg": bytes(2 << 20)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ArchiveError, match="bomb"):
        check_archive(path)


def test_a_bomb_in_many_small_entries_is_refused(path: Path) -> None:
    pack(path, {f"{n}.jpg": bytes(1 << 20) for n in range(4)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ArchiveError, match=r"it would unpack .* bomb"):
        check_archive(path)


def test_a_small_entry_of_one_colour_is_no_bomb(path: Path) -> None:
    pack(path, {"a.png": bytes(1 << 20), "b.jpg": os.urandom(1 << 16)}, compression=zipfile.ZIP_DEFLATED)
    check_archive(path)


def test_an_entry_above_the_limit_is_refused(path: Path) -> None:
    pack(path, {"a.jpg": bytes(archive.MAX_ENTRY_BYTES + 1)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ArchiveError, match="are allowed"):
        check_archive(path)


def test_more_than_the_limit_altogether_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 100)
    pack(path, {"a.jpg": bytes(60), "b.jpg": bytes(41)})
    with pytest.raises(ArchiveError, match="would unpack to 101 bytes; 100 are allowed"):
        check_archive(path)


def test_more_entries_than_the_limit_are_refused_before_one_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(path, {"../a": b"", "../b": b"", "../c": b""})
    monkeypatch.setattr(archive, "MAX_ENTRIES", 2)
    with pytest.raises(ArchiveError, match="3 entries"):
        check_archive(path)


def test_an_entry_inside_another_is_refused(path: Path) -> None:
    inner = local("b.jpg", JPEG)
    outer = local("a.jpg", inner)
    start_of_inner = len(outer) - len(inner)
    entries = [("a.jpg", len(inner), 0), ("b.jpg", len(JPEG), start_of_inner)]
    path.write_bytes(outer + directory(entries, len(outer)))
    with pytest.raises(ArchiveError, match="overlap"):
        check_archive(path)


def test_entries_that_share_their_data_through_a_long_header_are_refused(path: Path) -> None:
    second = local("b.jpg", JPEG)
    quoted = second[: -len(JPEG)]
    first = local("a.jpg", b"", extra=quoted)[: -len(quoted)]
    content = first + second
    entries = [("a.jpg", len(JPEG), 0), ("b.jpg", len(JPEG), len(first))]
    path.write_bytes(content + directory(entries, len(content)))
    with pytest.raises(ArchiveError, match="overlap"):
        check_archive(path)


def test_an_entry_that_is_not_where_the_directory_says_is_refused(path: Path) -> None:
    content = local("a.jpg", JPEG)
    path.write_bytes(content + directory([("b.jpg", len(JPEG), 0)], len(content)))
    with pytest.raises(ArchiveError, match="not where the directory says"):
        check_archive(path)


def test_an_entry_that_reaches_past_the_end_is_refused(path: Path) -> None:
    content = local("a.jpg", JPEG)
    path.write_bytes(content + directory([("a.jpg", len(JPEG) + 1, 0)], len(content)))
    with pytest.raises(ArchiveError, match="outside"):
        check_archive(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip" * 1000, b"\xff\xd8\xff\xe0" * 20_000])
def test_what_is_no_zip_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="not a zip"):
        check_archive(path)


def test_a_zip_cut_short_anywhere_is_refused(path: Path) -> None:
    pack(path, {"a.jpg": JPEG, "b.jpg": JPEG})
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ArchiveError):
            check_archive(path)


def test_a_zip_that_lost_its_middle_is_refused(path: Path) -> None:
    pack(path, {"a.jpg": JPEG * 9, "b.jpg": JPEG * 9})
    content = path.read_bytes()
    path.write_bytes(content[:50] + content[60:])
    with pytest.raises(ArchiveError):
        check_archive(path)


def test_whatever_is_accepted_opens_and_holds_what_was_checked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 40)
    pack(path, {"a.jpg": JPEG * 3, "images/b.jpg": JPEG * 4}, compression=zipfile.ZIP_DEFLATED)
    whole, chance = path.read_bytes(), random.Random(7)
    accepted = 0
    for _ in range(600):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.choice([0, 1, 0xFF, chance.randrange(256)])
        path.write_bytes(damaged)
        try:
            check_archive(path)
        except ArchiveError:
            continue
        accepted += 1
        with zipfile.ZipFile(path) as packed:
            assert len(set(packed.namelist())) == 2
            assert not any(name.startswith("/") or ".." in name for name in packed.namelist())
    assert accepted > 0


def test_a_refusal_names_the_file_that_it_is_about_in_one_line(path: Path) -> None:
    path.write_bytes(b"no zip")
    with pytest.raises(ArchiveError) as caught:
        check_archive(path, shown_as=Path("data/raw/images.zip"))
    assert str(caught.value).startswith("data/raw/images.zip: the zip is refused")
    assert "\n" not in str(caught.value)


def test_many_entries_take_seconds_and_little_memory(path: Path) -> None:
    pack(path, {f"images/image_train/image_{n}_product_{n}.jpg": JPEG for n in range(20_000)})
    start = time.perf_counter()
    check_archive(path)
    assert time.perf_counter() - start < 3
    tracemalloc.start()
    check_archive(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000 * 300

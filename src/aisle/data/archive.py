"""A zip of images is taken whole or not at all: `check_archive` refuses one that is broken or would do harm.

Images are read from the zip in place and nothing is ever unpacked, so a path that leads outside cannot be
followed here; it is refused all the same, because whoever packed it did not pack a catalogue. Only the
directory at its end and the header before each entry are read, one entry at a time: 100,000 entries take a
second, and what the zip claims to hold costs no memory.

The overlapping entries are those of https://www.bamsoftware.com/hacks/zipbomb/, the fields those of PKWARE's
APPNOTE.TXT (sections 4.3 and 4.5.3).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import zipfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from aisle.errors import ArchiveError

MAX_ENTRIES = 2_000_000
MAX_ENTRY_BYTES = 64 << 20
MAX_TOTAL_BYTES = 64 << 30
MAX_RATIO = 200
RATIO_COUNTS_ABOVE = 1 << 20

_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _UTF8 = 0x1 | 0x40 | 0x2000, 0x800
_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    raw_name: bytes
    flags: int
    method: int
    packed: int
    size: int
    mode: int
    offset: int


def check_archive(path: Path, *, shown_as: Path | None = None) -> None:
    """Raises ArchiveError, which names the first thing wrong with the zip at `path`.

    `shown_as` is the name to call it by where `path` is only a temporary one. The limits: 2,000,000 entries,
    64 MiB an entry, 64 GiB together, and 200 times its packed size for the whole and each entry above 1 MiB.
    """
    try:
        with path.open("rb") as stream:
            _check(stream, path.stat().st_size)
    except _Refused as refused:
        raise ArchiveError(
            f"the zip is refused: {refused}", where=shown_as or path, hint="Nothing of it was taken over."
        ) from None


class _Refused(Exception):
    """What is wrong with the zip; it never leaves this module."""


def _check(stream: BinaryIO, length: int) -> None:
    entries, directory_size, directory = _find_directory(stream, length)
    if entries > MAX_ENTRIES:
        raise _Refused(f"it claims {entries} entries; {MAX_ENTRIES} are allowed")
    seen: set[bytes] = set()
    starts, ends, total = array("Q"), array("Q"), 0
    for entry in _entries(stream, entries, directory, directory_size):
        _check_name(entry.name)
        _check_kind(entry)
        # A digest is 16 bytes for a name of up to 65,535: 2,000,000 of these fit into memory.
        digest = hashlib.blake2b(entry.name.encode(errors="surrogatepass"), digest_size=16).digest()
        if digest in seen:
            raise _Refused(f"it holds {entry.name!r} twice")
        seen.add(digest)
        starts.append(entry.offset)
        ends.append(_end_of_data(stream, entry, directory))
        total += entry.size
    if total > MAX_TOTAL_BYTES:
        raise _Refused(f"it would unpack to {total} bytes; {MAX_TOTAL_BYTES} are allowed")
    _check_ratio("it", total, length)
    _check_overlap(starts, ends)


def _find_directory(stream: BinaryIO, length: int) -> tuple[int, int, int]:
    """Entries, size and offset of the central directory, which must end where its end record begins."""
    tail_length = min(length, _END.size + 0xFFFF)
    tail = os.pread(stream.fileno(), tail_length, length - tail_length)
    found = tail.rfind(b"PK\5\6")
    if found < 0 or len(tail) - found < _END.size:
        raise _Refused("it is not a zip, or it is cut short: the directory at its end is missing")
    at = length - tail_length + found
    _, disk, first_disk, on_disk, entries, size, offset, comment = _END.unpack_from(tail, found)
    if at + _END.size + comment != length:
        raise _Refused("it is cut short, or something follows its end")
    if os.pread(stream.fileno(), 4, max(at - _END64_LOCATOR.size, 0)) == b"PK\6\7":
        at, disk, first_disk, on_disk, entries, size, offset = _find_directory64(stream, at)
    if (disk, first_disk, on_disk) != (0, 0, entries) or offset + size != at:
        raise _Refused("its central directory is broken, or it is one part of several")
    return entries, size, offset


def _find_directory64(stream: BinaryIO, end: int) -> tuple[int, int, int, int, int, int, int]:
    at = end - _END64_LOCATOR.size
    _, disk_of_it, at64, disks = _END64_LOCATOR.unpack(_read_at(stream, at, _END64_LOCATOR.size))
    if at64 + _END64.size != at or disk_of_it != 0 or disks > 1:
        raise _Refused("its zip64 directory is broken")
    magic, _, _, _, disk, first_disk, on_disk, entries, size, offset = _END64.unpack(
        _read_at(stream, at64, _END64.size)
    )
    if magic != b"PK\6\6":
        raise _Refused("its zip64 directory is broken")
    return at64, disk, first_disk, on_disk, entries, size, offset


def _entries(stream: BinaryIO, count: int, start: int, size: int) -> Iterator[_Entry]:
    stream.seek(start)
    for _ in range(count):
        fixed = stream.read(_ENTRY.size)
        if len(fixed) < _ENTRY.size or not fixed.startswith(b"PK\1\2"):
            raise _Refused("its central directory is broken")
        (_, _, version, flags, method, _, _, _, packed, full, name_size, extra_size, comment_size, _, _, attributes,
         offset) = _ENTRY.unpack(fixed)  # fmt: skip
        if version & 0xFF > zipfile.MAX_EXTRACT_VERSION:
            raise _Refused("it is written for a later version of the format")
        raw_name = stream.read(name_size)
        extra = stream.read(extra_size)
        stream.seek(comment_size, os.SEEK_CUR)
        full, packed, offset = _wide(extra, full, packed, offset)
        name = _decode(raw_name, flags)
        yield _Entry(name, raw_name, flags, method, packed, full, attributes >> 16, offset)
    if stream.tell() != start + size:
        raise _Refused("its central directory holds another number of entries than it claims")


def _wide(extra: bytes, *fields: int) -> list[int]:
    """The sizes and the offset, from the zip64 field where the 32 bits of the directory were too few."""
    values, position = list(fields), 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, position)
        position += 4
        narrow = [index for index, value in enumerate(values) if value == 0xFFFFFFFF] if kind == 1 else []
        if position + max(size, 8 * len(narrow)) > len(extra) or size < 8 * len(narrow):
            raise _Refused("its central directory is broken")
        for index, wide in zip(narrow, struct.unpack_from(f"<{len(narrow)}Q", extra, position), strict=True):
            values[index] = wide
        position += size
    return values


def _decode(raw_name: bytes, flags: int) -> str:
    try:
        return raw_name.decode("utf-8" if flags & _UTF8 else "cp437")
    except UnicodeDecodeError:
        raise _Refused(f"a name in it is not UTF-8: {raw_name!r}") from None


def _check_name(name: str) -> None:
    if "\\" in name or re.match(r"/|[A-Za-z]:", name) or ".." in name.split("/"):
        raise _Refused(f"{name!r} leads outside")
    if not name or any(ord(letter) < ord(" ") for letter in name):
        raise _Refused(f"{name!r} is not the name of a file")


def _check_kind(entry: _Entry) -> None:
    if entry.flags & _ENCRYPTED:
        raise _Refused(f"{entry.name!r} is encrypted")
    if stat.S_IFMT(entry.mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise _Refused(f"{entry.name!r} is a link or a device, not a file")
    if entry.method not in {_STORED, _DEFLATED} or (entry.method == _STORED and entry.packed != entry.size):
        raise _Refused(f"{entry.name!r} is packed in a way that images are not (method {entry.method})")
    if entry.size > MAX_ENTRY_BYTES:
        raise _Refused(f"{entry.name!r} would unpack to {entry.size} bytes; {MAX_ENTRY_BYTES} are allowed")
    _check_ratio(repr(entry.name), entry.size, entry.packed)


def _check_ratio(name: str, size: int, packed: int) -> None:
    if size > RATIO_COUNTS_ABOVE and size > MAX_RATIO * packed:
        raise _Refused(f"{name} would unpack to {size} bytes, more than {MAX_RATIO} times its size: a bomb")


def _end_of_data(stream: BinaryIO, entry: _Entry, directory: int) -> int:
    """Where the entry's data ends. The header before the data says where they begin, and must agree."""
    if entry.offset + _LOCAL.size > directory:
        raise _Refused(f"{entry.name!r} lies outside of it")
    header = _read_at(stream, entry.offset, _LOCAL.size + len(entry.raw_name))
    magic, _, flags, method, *_, name_size, extra_size = _LOCAL.unpack_from(header)
    if magic != b"PK\3\4" or name_size != len(entry.raw_name) or header[_LOCAL.size :] != entry.raw_name:
        raise _Refused(f"{entry.name!r} is not where the directory says")
    if flags & _ENCRYPTED or method != entry.method:
        raise _Refused(f"{entry.name!r} is encrypted or packed otherwise than the directory says")
    end: int = entry.offset + _LOCAL.size + name_size + extra_size + entry.packed
    if end > directory:
        raise _Refused(f"{entry.name!r} lies outside of it")
    return end


def _check_overlap(starts: array[int], ends: array[int]) -> None:
    order = sorted(range(len(starts)), key=starts.__getitem__)
    for before, after in pairwise(order):
        if ends[before] > starts[after]:
            raise _Refused("entries in it overlap, as in a bomb")


def _read_at(stream: BinaryIO, offset: int, size: int) -> bytes:
    content = os.pread(stream.fileno(), size, max(offset, 0))
    if len(content) < size:
        raise _Refused("it is cut short")
    return content

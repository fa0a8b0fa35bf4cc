"""Answers on their way to the database, on the disk before they go out: a service that is killed loses none of them.

Each process has two files in a folder that all share, and holds a lock on each for as long as it lives. It writes to
one; what was written before the last `turn` is in the other, which `done` empties once it is in the database. A file
that nobody holds any more is somebody's who was killed: whoever sees it first takes it over (`abandoned`). A record
that is stored twice is stored once, so that nothing depends on where a process was killed.

A line is one write, and survives the process. Nothing waits for the disk itself: what the system had not written
when the power went is lost, some seconds' worth. `most_bytes` is how much both files may have; an answer for which
there is no room, or no disk, goes out without a line, and a metric says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path

from aisle.files import TEMPORARY_PREFIX
from aisle.logs import get_logger
from aisle.service.metrics import JOURNAL
from aisle.store.predictions import PredictionRecord

SUFFIX = ".journal"
_FIELDS = frozenset(field.name for field in fields(PredictionRecord))
"""A later release may know more of them: after a step back these are read all the same."""


class Journal:
    """For any thread. Its files are made when the first record comes."""

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self._folder = folder.absolute()
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._active: _File | None = None
        self._other: _File | None = None
        self._is_failing = False

    def append(self, record: PredictionRecord) -> bool:
        """Whether it is written. Raises nothing: a full disk stops no answer."""
        line = _line(record)
        with self._lock:
            try:
                if self._active is None or self._other is None:
                    self._other = self._other or _File.new(self._folder)
                    self._active = _File.new(self._folder)
                if self._active.size + self._other.size + len(line) > self._most_bytes:
                    return self._failed("there is no room left in it")
                self._active.append(line)
            except OSError as error:
                return self._failed(error.strerror or type(error).__name__)
            self._is_failing = False
        return True

    def turn(self) -> None:
        """From here on write to the other file, if it is empty."""
        with self._lock:
            if self._active and self._active.size and self._other and not self._other.size:
                self._active, self._other = self._other, self._active

    def done(self) -> None:
        """What was written before the last turn is in the database."""
        with self._lock, contextlib.suppress(OSError):
            if self._other and self._other.size:
                self._other.clear()

    def close(self) -> None:
        """Leave what is not in the database to whoever comes next."""
        with self._lock:
            for file in (self._active, self._other):
                if file is not None:
                    file.close()
            self._active = self._other = None

    def abandoned(self) -> Iterator[Abandoned]:
        """The files of processes that were killed, one after the other, each locked while it is looked at."""
        for path in self._paths():
            with contextlib.suppress(OSError), path.open("rb") as stream:  # another process was faster
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(stream.fileno()).st_nlink:
                    yield Abandoned(path, _records(path, stream.read()))

    def holds(self, prediction_id: str) -> bool:
        """Whether a record is on its way to the database, from any process that shares the folder."""
        for path in self._paths():
            with contextlib.suppress(OSError):
                if prediction_id.encode() in path.read_bytes():
                    return True
        return False

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{SUFFIX}"))

    def _failed(self, reason: str) -> bool:
        JOURNAL.labels("not_written").inc()
        if not self._is_failing:
            get_logger(__name__).error("answers are not in the journal", reason=reason, folder=str(self._folder))
        self._is_failing = True
        return False


@dataclass(frozen=True)
class Abandoned:
    """A file whose process was killed, and the records that can be read in it."""

    path: Path
    records: list[PredictionRecord]

    def remove(self) -> None:
        """They are in the database."""
        self.path.unlink(missing_ok=True)


class _File:
    def __init__(self, path: Path, handle: int) -> None:
        self._path = path
        self._handle = handle
        self.size = 0

    @classmethod
    def new(cls, folder: Path) -> _File:
        """A file that nobody can take for abandoned: it is locked before it has its name."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = uuid.uuid4().hex
        temporary = folder / f"{TEMPORARY_PREFIX}{name}"
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path = temporary.rename(folder / f"{name}{SUFFIX}")
        except OSError:
            temporary.unlink(missing_ok=True)
            os.close(handle)
            raise
        return cls(path, handle)

    def append(self, line: bytes) -> None:
        """All of it, or nothing."""
        written = 0
        try:
            written = os.write(self._handle, line)
        finally:
            if written < len(line):  # the disk is full: half a line would spoil the next one
                os.ftruncate(self._handle, self.size)
        if written < len(line):
            raise OSError(0, "it was not written whole")
        self.size += written

    def clear(self) -> None:
        os.ftruncate(self._handle, 0)
        self.size = 0

    def close(self) -> None:
        if not self.size:
            self._path.unlink(missing_ok=True)
        os.close(self._handle)


def _line(record: PredictionRecord) -> bytes:
    content = {**vars(record), "created_at": record.created_at.isoformat()}
    text = json.dumps(content, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _records(path: Path, content: bytes) -> list[PredictionRecord]:
    """Those that are whole: what was written when the process was killed, or is damaged, is counted and left out."""
    records, damaged = [], 0
    for line in content.splitlines():
        record = _read(line)
        if record is None:
            damaged += 1
        else:
            records.append(record)
    if damaged:
        JOURNAL.labels("damaged").inc(damaged)
        get_logger(__name__).error("lines of the journal are damaged", file=path.name, lines=damaged)
    return records


def _read(line: bytes) -> PredictionRecord | None:
    checksum, _, text = line.partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return None
        known = {name: value for name, value in json.loads(text).items() if name in _FIELDS}
        return PredictionRecord(**{**known, "created_at": datetime.fromisoformat(known["created_at"])})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None

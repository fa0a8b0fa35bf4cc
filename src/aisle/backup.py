"""One file with what cannot be made again, and back from it: `aisle backup`, `aisle restore`.

    database/TABLE.ndjson.gz        every row, as of one moment, but for sign-ins and batches
    models/VERSION/…                every whole bundle; the sums in it say that it still is
    models/serving.json             who serves
    models/evaluation.json          the products that the gate measures on
    retraining/corrections.csv      what people said, collected
    backup.json                     the sum of each of these: the last one, so a file that was cut off has none

Services may run while a back-up is made. What is restored needs an empty database and a store in which nothing
serves yet: nothing that is there is ever replaced. A restore that was killed is given again.

The file lets in whoever has it, nearly: it has the hashes of passwords, and the sealed keys of the token service.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

from sqlalchemy import Connection, Engine

from aisle import __version__
from aisle.clock import Clock, utc_now
from aisle.errors import BundleError, CheckFailed, InputError, UsageError
from aisle.files import atomic_path, sha256_file, to_json, write_bytes
from aisle.logs import get_logger
from aisle.loop.corrections import CORRECTIONS_FILE, FOLDER
from aisle.model.bundle import Bundle
from aisle.registry.bundles import POINTER_FILE, BundleStore, Serving, pass_over
from aisle.registry.frozen import FROZEN_FILE
from aisle.settings import Settings
from aisle.store import audit, dump
from aisle.store.engine import snapshot, writing
from aisle.store.migrate import known_revision, migrate, migrate_empty, revision

CONTENTS_FILE = "backup.json"
FORMAT = 1
DATABASE, MODELS, RETRAINING = "database", "models", "retraining"


@dataclass(frozen=True)
class Contents:
    """What is in a back-up: rows by table, versions, who serves; `damaged` versions were left out."""

    format: int
    made_at: str
    release: str
    revision: str
    rows: Mapping[str, int]
    versions: tuple[str, ...]
    damaged: tuple[str, ...]
    champion: str | None
    sums: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name not in ("format", "sums")}


def back_up_to_file(
    engine: Engine, settings: Settings, target: Path, *, who: str, clock: Clock = utc_now
) -> Contents:
    """Write `target` as a whole, for its owner alone. Raises as `back_up` does, and UsageError where there is such a
    file: an earlier back-up is not replaced."""
    if target.exists():
        raise UsageError("is there already", where=target, hint="Name another file.")
    with atomic_path(target, private=True) as path, path.open("wb") as file:
        return back_up(engine, settings, file, name=target.name, who=who, clock=clock)


def back_up(
    engine: Engine, settings: Settings, out: IO[bytes], *, name: str, who: str, clock: Clock = utc_now
) -> Contents:
    """Write a back-up to `out`, which need not be a file. Who made it is in the audit trail, and in the back-up's.

    Raises CheckFailed for a database that a newer release migrated, of which this one might leave out something.
    """
    now = clock()
    with writing(engine) as connection:
        audit.record(connection, who=who, what="backup.make", subject=name, at=now)
    settings.data_path.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=out, mode="w|") as archive:
        writer = _Writer(archive, now, settings.data_path)
        with snapshot(engine) as connection:
            # Who serves is asked first: versions come, and do not go.
            store = BundleStore(settings.models_path)
            serving = store.serving()
            applied = known_revision(connection)
            rows = {table: _add_table(writer, connection, table) for table in dump.TABLES}
        whole, damaged = _add_bundles(writer, store)
        if serving != Serving():
            writer.add(f"{MODELS}/{POINTER_FILE}", to_json(asdict(serving)).encode())
        for kept, path in _kept_files(settings).items():
            with contextlib.suppress(FileNotFoundError):
                writer.add(kept, path.read_bytes())
        contents = Contents(
            FORMAT, now.isoformat(), __version__, applied, rows, tuple(whole), tuple(damaged),
            serving.champion, dict(writer.sums),
        )  # fmt: skip
        writer.add(CONTENTS_FILE, to_json(asdict(contents)).encode())
    return contents


def restore(
    engine: Engine, settings: Settings, source: IO[bytes], *, name: str, who: str, clock: Clock = utc_now
) -> Contents:
    """Bring back all that is in `source`, a file, which is checked as a whole before anything is written.

    Raises InputError for one that is no whole back-up, CheckFailed where something is in use already.
    """
    with _opened(source, name) as archive:
        reader = _Reader(archive, name)
        contents = reader.contents
        store = BundleStore(settings.models_path)
        _check_room(engine, settings, store, reader)
        _restore_bundles(reader, store)
        with writing(engine) as connection:
            if revision(connection) is None:
                migrate_empty(connection, contents.revision)
            for table in filter(contents.rows.__contains__, dump.TABLES):
                _restore_table(reader, connection, table)
            after = {"rows": dict(contents.rows), "versions": list(contents.versions)}
            audit.record(
                connection, who=who, what="backup.restore", subject=contents.made_at, at=clock(), after=after
            )
            # Before the rows are there for all: whoever is killed between finds the same files the next time.
            for kept, path in _kept_files(settings).items():
                if kept in reader:
                    write_bytes(path, reader.read(kept))
            if (pointer := _pointer(reader)) is not None:
                store.point_as(pointer)
    migrate(engine)
    return contents


class _Writer:
    """Adds files to an archive and keeps their sums."""

    def __init__(self, archive: tarfile.TarFile, at: datetime, folder: Path) -> None:
        self._archive, self._at, self.folder = archive, at, folder
        self.sums: dict[str, str] = {}

    def add(self, name: str, content: bytes) -> None:
        file = io.BytesIO(content)
        file.seek(0, io.SEEK_END)
        self.add_file(name, file)

    def add_file(self, name: str, file: IO[bytes]) -> None:
        """A file, whole, whose position is its end."""
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = file.tell(), 0o600, int(self._at.timestamp())
        file.seek(0)
        self.sums[name] = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        file.seek(0)
        self._archive.addfile(member, file)


class _Reader:
    """An archive whose files are all there, and are what they were."""

    def __init__(self, archive: tarfile.TarFile, source: str) -> None:
        self._archive = archive
        broken = InputError("is not a whole back-up", where=source, hint="`aisle backup FILE` makes one.")
        try:
            self._members = {member.name: member for member in archive if member.isreg()}
            self.contents = _understood(json.loads(self.read(CONTENTS_FILE)))
        except (KeyError, ValueError, TypeError, AttributeError, tarfile.TarError, EOFError):
            raise broken from None
        if self.contents.format != FORMAT:
            raise InputError(f"has format {self.contents.format}, not {FORMAT}", where=source)
        if self._members.keys() != {*self.contents.sums, CONTENTS_FILE}:
            raise broken
        get_logger(__name__).info("checking the back-up", files=len(self._members))
        for name, sum_ in self.contents.sums.items():
            with self.open(name) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sum_:  # type: ignore[arg-type]
                    raise InputError(f"{name} was altered: its sum differs", where=source)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def open(self, name: str) -> IO[bytes]:
        return self._archive.extractfile(self._members[name])  # type: ignore[return-value]  # it is a regular file

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def within(self, folder: str) -> list[str]:
        """The names of the files right in a folder."""
        return [PurePosixPath(name).name for name in self._members if str(PurePosixPath(name).parent) == folder]


def _understood(table: Mapping[str, Any]) -> Contents:
    found = Contents(**table)
    known = all(name in dump.TABLES for name in found.rows)
    plain = all(PurePosixPath(one).name == one and one not in ("", "..") for one in found.versions)
    if not (known and plain):
        raise ValueError("names what is not ours")
    return found


@contextlib.contextmanager
def _opened(source: IO[bytes], name: str) -> Iterator[tarfile.TarFile]:
    try:
        archive = tarfile.open(fileobj=source, mode="r:")  # noqa: SIM115  closed below
    except tarfile.TarError:
        raise InputError("is not a back-up", where=name, hint="`aisle backup FILE` makes one.") from None
    with archive:
        yield archive


def _kept_files(settings: Settings) -> dict[str, Path]:
    """Files that are copied as they are, by their names in the archive."""
    return {
        f"{MODELS}/{FROZEN_FILE}": settings.models_path / FROZEN_FILE,
        f"{RETRAINING}/{CORRECTIONS_FILE}": settings.data_path / FOLDER / CORRECTIONS_FILE,
    }


def _table_file(name: str) -> str:
    return f"{DATABASE}/{name}.ndjson.gz"


def _add_table(writer: _Writer, connection: Connection, name: str) -> int:
    count = 0
    with tempfile.TemporaryFile(dir=writer.folder) as file:  # /tmp may be memory
        with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:
            for count, row in enumerate(dump.rows(connection, dump.TABLES[name]), 1):  # noqa: B007
                packed.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
        writer.add_file(_table_file(name), file)
    if count:
        get_logger(__name__).info("rows are in the back-up", table=name, rows=count)
    return count


def _restore_table(reader: _Reader, connection: Connection, name: str) -> None:
    with reader.open(_table_file(name)) as file, gzip.GzipFile(fileobj=file) as packed:
        rows = (json.loads(line) for line in packed)
        count = dump.insert_rows(connection, dump.TABLES[name], rows)
    if count:
        get_logger(__name__).info("rows are back", table=name, rows=count)


def _add_bundles(writer: _Writer, store: BundleStore) -> tuple[list[str], list[str]]:
    whole, damaged = [], []
    for version in store.versions():
        try:
            Bundle.load(store.root / version, signed=False)
        except BundleError as error:
            pass_over(version, error)
            damaged.append(version)
            continue
        for path in sorted((store.root / version).iterdir()):
            if path.is_file():
                with path.open("rb") as file:
                    file.seek(0, io.SEEK_END)
                    writer.add_file(f"{MODELS}/{version}/{path.name}", file)
        whole.append(version)
        get_logger(__name__).info("a model is in the back-up", version=version)
    return whole, damaged


def _restore_bundles(reader: _Reader, store: BundleStore) -> None:
    store.root.mkdir(parents=True, exist_ok=True)
    for version in reader.contents.versions:
        with tempfile.TemporaryDirectory(dir=store.root, prefix=".tmp-") as folder:  # /tmp may be memory
            for name in reader.within(f"{MODELS}/{version}"):
                write_bytes(Path(folder) / name, reader.read(f"{MODELS}/{version}/{name}"))
            store.add(Bundle.load(Path(folder), signed=False))


def _pointer(reader: _Reader) -> Serving | None:
    name = f"{MODELS}/{POINTER_FILE}"
    if name not in reader:
        return None
    found = json.loads(reader.read(name))
    return Serving(found["champion"], found["challenger"], tuple(found["before"]), tuple(found["rolled_back"]))


def _check_room(engine: Engine, settings: Settings, store: BundleStore, reader: _Reader) -> None:
    """Raises CheckFailed for all that is in use already, before anything is written."""
    with snapshot(engine) as connection:
        applied, used = revision(connection), dump.tables_in_use(connection)
    if used:
        raise CheckFailed(
            f"the database is in use: {', '.join(used[:3])} {'has' if len(used) == 1 else 'have'} rows",
            hint="DATABASE_URL has to name an empty one, before a service has been started on it.",
        )
    if applied not in (None, reader.contents.revision):
        raise CheckFailed(
            f"the database has the tables of migration {applied}, the back-up those of {reader.contents.revision}",
            hint="DATABASE_URL has to name an empty one: what is restored is brought up to date afterwards.",
        )
    if store.serving() not in (Serving(), _pointer(reader)):
        raise CheckFailed("another model is in service here", where=store.root, hint="Choose another MODELS_PATH.")
    for name, file in _kept_files(settings).items():
        if name in reader and file.is_file() and sha256_file(file) != reader.contents.sums[name]:
            raise CheckFailed("is another one than that of the back-up", where=file, hint="Move it away first.")

"""Bring a catalogue from where it is into a folder: `import_catalogue`.

Each file is whole or absent. `import.json` in the folder lists what the import put there: only that is ever
replaced or removed, and a second run does nothing as long as it all still holds. The labels come last, and
those of another source go before its table of products is replaced: what is half imported lacks them, so it
is no catalogue yet and nothing trains on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from aisle.data import raw
from aisle.data.archive import check_archive
from aisle.data.download import Patience
from aisle.data.images import map_bounded
from aisle.data.origins import Brought, Source, Way, catalogue_files, is_catalogue_file, open_source
from aisle.errors import AisleError, InputError, UsageError
from aisle.files import sha256_file, write_json
from aisle.logs import get_logger
from aisle.progress import track
from aisle.settings import Settings

MANIFEST_FILE = "import.json"
IMAGES_AT_ONCE = 8
SAVE_EVERY_SECONDS = 10.0

State = Way | Literal["already there"]
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ImportedFile:
    name: str
    bytes: int
    sha256: str
    state: State


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What the folder holds now, by name; single images are named `image_train/…`, `image_test/…`."""

    source: str
    folder: Path
    files: tuple[ImportedFile, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: each table and archive, and of single images their number and size."""
        images = [one for one in self.files if "/" in one.name]
        return {
            "source": self.source,
            "folder": str(self.folder),
            "files": [
                {"name": one.name, "bytes": one.bytes, "sha256": one.sha256, "state": one.state}
                for one in self.files
                if "/" not in one.name
            ],
            "images": {
                "files": len(images),
                "bytes": sum(one.bytes for one in images),
                "already_there": sum(one.state == "already there" for one in images),
            },
        }


def import_catalogue(
    source: str,
    to: Path,
    *,
    settings: Settings,
    rows: int = 2700,
    seed: int = 0,
    refresh: bool = False,
    patience: Patience | None = None,
) -> ImportResult:
    """Bring the catalogue at `source` into the folder `to`; `rows` and `seed` are for `sample`.

    If the last import was the same and its files still hold, no server is asked; with `refresh` it is, and
    what changed there is fetched. Tables that were changed by hand since are kept under `<name>.bak`.

    Raises UsageError (no such kind of source; `to` holds a catalogue that no import put there, or is being
    imported into), InputError (no catalogue at the source), ArchiveError (`images.zip` is broken or would do
    harm; it is not taken over), ServiceMissing, and AisleError when the disk is full or cannot be written.
    """
    opened = open_source(source, to, settings=settings, rows=rows, seed=seed, patience=patience or Patience())
    if opened.origin["source"] == str(to.resolve()):
        return ImportResult(source, to, _as_it_is(to))
    if to.exists() and not to.is_dir():
        raise UsageError("is a file, not a folder", where=to)
    try:
        to.mkdir(parents=True, exist_ok=True)
        with _alone_in(to), contextlib.closing(opened):
            return ImportResult(source, to, _Import(to, opened).run(refresh=refresh))
    except OSError as error:
        raise AisleError(
            f"cannot be read or written: {error.strerror or error}",
            where=error.filename or to,
            hint="Make room or change its rights, then run the same command again.",
        ) from None


class _Record(BaseModel, frozen=True):
    """A file as the import left it. `etag` is its version at the source, empty if that is not known."""

    bytes: int
    mtime_ns: int
    sha256: str
    etag: str


class _Manifest(BaseModel):
    """`import.json`: what the import put into the folder. None stands for a file that is on its way."""

    origin: dict[str, str | int]
    complete: bool
    files: dict[str, _Record | None]


def is_unfinished(folder: Path, source: str) -> bool:
    """Is there nothing yet in `folder`, or only an import from `source` that was not finished?"""
    if not folder.is_dir() or not any(folder.iterdir()):
        return True
    manifest = _read_manifest(folder)
    return manifest is not None and not manifest.complete and manifest.origin["source"] == source


class _Import:
    """One import into one folder, which no other process imports into meanwhile."""

    def __init__(self, to: Path, source: Source) -> None:
        self._to, self._source = to, source
        self._states: dict[str, State] = {}
        self._saved = 0.0

    def run(self, *, refresh: bool) -> tuple[ImportedFile, ...]:
        before = _read_manifest(self._to)
        is_same = before is not None and before.origin == self._source.origin
        if before and before.complete and is_same and self._source.is_costly and not refresh:
            self._manifest = before
            if all(self._holds(name) for name in before.files):
                return self._result()
        foreign = [name for name in catalogue_files(self._to) if not before or name not in before.files]
        if before is None:
            _refuse_to_replace(foreign, self._to)
        offers = self._source.offers()
        _refuse_to_replace([name for name in foreign if name in offers], self._to)
        self._claim(before.files if before else {}, offers, is_same=is_same)
        self._bring_all(offers)
        self._manifest.complete = True
        self._save()
        return self._result()

    def _claim(self, old: dict[str, _Record | None], offers: dict[str, str], *, is_same: bool) -> None:
        """Note what is on its way before the first byte comes: what is found half done later is then ours."""
        if not is_same:  # the versions of one source say nothing about another
            old = {name: record and record.model_copy(update={"etag": ""}) for name, record in old.items()}
        files = {**dict.fromkeys(offers), **old}
        self._manifest = _Manifest(origin=self._source.origin, complete=False, files=files)
        self._save()

    def _bring_all(self, offers: dict[str, str]) -> None:
        wanted = [name for name in sorted(offers, key=_turn) if not self._is_current(name, offers[name])]
        tables = [name for name in wanted if "/" not in name and name != raw.LABELS_FILE]
        images = [name for name in wanted if "/" in name]
        for name in tables:
            self._note(name, self._bring(name))
        found = map_bounded(self._bring, images, threads=IMAGES_AT_ONCE)
        for name, brought in track(zip(images, found, strict=True), "images", total=len(images), unit="images"):
            self._note(name, brought)
        for name in [name for name in self._manifest.files if name not in offers]:
            self._remove(name)
        if raw.LABELS_FILE in wanted:
            self._note(raw.LABELS_FILE, self._bring(raw.LABELS_FILE))

    def _is_current(self, name: str, version: str) -> bool:
        record = self._manifest.files[name]
        return record is not None and bool(version) and record.etag == version and self._holds(name)

    def _holds(self, name: str) -> bool:
        """Whether the file is as the import left it; a new date alone, from a checkout, does not matter."""
        record, path = self._manifest.files[name], self._to / name
        if record is None or not path.is_file() or path.stat().st_size != record.bytes:
            return False
        return path.stat().st_mtime_ns == record.mtime_ns or sha256_file(path) == record.sha256

    def _bring(self, name: str) -> Brought | None:
        return self._source.bring(name, self._to / name, partial(self._admit, name))

    def _admit(self, name: str, part: Path) -> None:
        if name == raw.IMAGES_ZIP:
            check_archive(part, shown_as=self._to / name)
        labels = self._manifest.files.get(raw.LABELS_FILE)
        if name == raw.TRAIN_FILE and (labels is None or not labels.etag):
            self._put_away(raw.LABELS_FILE)
        self._keep_if_changed(name)

    def _note(self, name: str, brought: Brought | None) -> None:
        if brought is None:
            self._remove(name)
            return
        stat = (self._to / name).stat()
        self._manifest.files[name] = _Record(
            bytes=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=brought.sha256, etag=brought.version
        )
        self._states[name] = brought.state
        if "/" not in name:
            _log.info("file imported", file=name, state=brought.state, bytes=stat.st_size)
        if "/" not in name or time.monotonic() - self._saved > SAVE_EVERY_SECONDS:
            self._save()

    def _remove(self, name: str) -> None:
        self._put_away(name)
        del self._manifest.files[name]
        with contextlib.suppress(OSError):  # the last image takes its folder with it
            (self._to / name).parent.rmdir()

    def _put_away(self, name: str) -> None:
        self._keep_if_changed(name)
        (self._to / name).unlink(missing_ok=True)

    def _keep_if_changed(self, name: str) -> None:
        path = self._to / name
        is_table = name.endswith(".csv") and path.is_file()
        if is_table and self._manifest.files[name] is not None and not self._holds(name):
            path.replace(path.with_name(f"{name}.bak"))
            _log.warning("changed since its import: kept under another name", file=name, kept=f"{name}.bak")

    def _save(self) -> None:
        write_json(self._to / MANIFEST_FILE, self._manifest.model_dump())
        self._saved = time.monotonic()

    def _result(self) -> tuple[ImportedFile, ...]:
        return tuple(
            ImportedFile(name, record.bytes, record.sha256, self._states.get(name, "already there"))
            for name, record in sorted(self._manifest.files.items())
            if record is not None
        )


def _turn(name: str) -> tuple[bool, bool, str]:
    """The table of products first (with it, what was there before ends), the large files last."""
    return name != raw.TRAIN_FILE, name == raw.IMAGES_ZIP, name


def _read_manifest(folder: Path) -> _Manifest | None:
    path = folder / MANIFEST_FILE
    if not path.exists():
        return None
    with contextlib.suppress(ValidationError):
        manifest = _Manifest.model_validate_json(path.read_bytes())
        if all(is_catalogue_file(name) for name in manifest.files):
            return manifest
    raise InputError("is not what an import wrote", where=path, hint="Choose another --to.")


def _refuse_to_replace(names: list[str], folder: Path) -> None:
    if names:
        raise UsageError(
            f"holds {min(names)}, which no import put there",
            where=folder,
            hint="Choose another --to, or move what is there away.",
        )


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError("another import into this folder is running", where=folder) from None
        yield
    finally:
        os.close(handle)


def _as_it_is(folder: Path) -> tuple[ImportedFile, ...]:
    return tuple(
        ImportedFile(name, (folder / name).stat().st_size, sha256_file(folder / name), "already there")
        for name in sorted(catalogue_files(folder))
    )

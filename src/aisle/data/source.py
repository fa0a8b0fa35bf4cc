"""Bring a catalogue from where it is into a folder: `import_catalogue`.

    sample          made here, the same on every machine for the same rows and seed
    huggingface     the challenge's files at `DATA_SOURCE_URL`, with the names of Rakuten's types
    s3://…          a bucket or a prefix in one, with keys as for any AWS client
    FOLDER          a folder that already holds a catalogue

Each file is whole or absent. `import.json` in the folder lists what the import put there: only that is ever
replaced or removed, and a second run does nothing as long as it all still holds. The labels come last, and those
of another source go before its first file is replaced: what is half imported lacks them and is no catalogue yet.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, Protocol

import httpx
from pydantic import BaseModel, ValidationError

from aisle.catalog import TYPES_FILE
from aisle.data import raw
from aisle.data.archive import check_archive
from aisle.data.download import Patience, download, probe, shown
from aisle.data.images import SUFFIXES, map_bounded
from aisle.errors import AisleError, InputError, ServiceMissing, UsageError
from aisle.files import atomic_path, read_json, sha256_file, write_json
from aisle.logs import get_logger
from aisle.progress import Progress
from aisle.settings import Settings

MANIFEST_FILE = "import.json"
SOURCES = "sample, huggingface, s3://BUCKET/PREFIX or a folder"
KNOWN_FILES = (*raw.REQUIRED_FILES, *raw.OPTIONAL_FILES, raw.IMAGES_ZIP)
PACKAGED_TYPES = Path(__file__).with_name("rakuten_types.csv")
IMAGES_AT_ONCE = 8
SAVE_EVERY_SECONDS = 10.0

State = Literal["downloaded", "copied", "generated", "already there"]
Admit = Callable[[Path], None]
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
    with contextlib.ExitStack() as closing:
        opened = _open(source, to, settings, rows, seed, patience or Patience(), closing)
        if isinstance(opened, _Folder) and opened.folder.resolve() == to.resolve():
            return _as_it_is(source, to)
        if to.exists() and not to.is_dir():
            raise UsageError("is a file, not a folder", where=to)
        try:
            to.mkdir(parents=True, exist_ok=True)
            closing.enter_context(_alone_in(to))
            files = _Import(to, opened, refresh=refresh).run()
        except OSError as error:
            raise AisleError(
                f"cannot be read or written: {error.strerror or error}",
                where=error.filename or to,
                hint="Make room or change its rights, then run the same command again.",
            ) from None
    return ImportResult(source, to, files)


# --- the four sources


@dataclass(frozen=True, slots=True)
class _Brought:
    state: State
    sha256: str
    version: str


class _Source(Protocol):
    origin: dict[str, str | int]  # when this is equal, it is the same source
    is_costly: bool  # to look at it takes a server or much work

    def offers(self) -> dict[str, str]:
        """The catalogue's files there: name → version, which is empty if nothing tells."""
        ...

    def bring(self, name: str, target: Path, admit: Admit) -> _Brought | None:
        """Fetch one whole file; `admit` sees it before it is at `target`. None: it is not there after all."""
        ...


class _Folder:
    is_costly = False
    state: State = "copied"

    def __init__(self, folder: Path) -> None:
        raw.check_raw_folder(folder)
        self.folder = folder
        self.origin: dict[str, str | int] = {"source": str(folder.resolve())}

    def offers(self) -> dict[str, str]:
        return {name: _version_of(self.folder / name) for name in _catalogue_files(self.folder)}

    def bring(self, name: str, target: Path, admit: Admit) -> _Brought:
        return _copy(self.folder / name, target, admit, self.state)


class _Sample(_Folder):
    is_costly = True
    state = "generated"

    def __init__(self, scratch: Path, rows: int, seed: int) -> None:
        self.folder, self._rows, self._seed = scratch, rows, seed
        self.origin = {"source": "sample", "rows": rows, "seed": seed}

    def offers(self) -> dict[str, str]:
        from aisle.data.sample import write_sample  # noqa: PLC0415  it draws images, which the others do not

        shutil.rmtree(self.folder, ignore_errors=True)
        write_sample(self.folder, rows=self._rows, seed=self._seed)
        return super().offers()


class _HuggingFace:
    is_costly = True

    def __init__(self, settings: Settings, patience: Patience, client: httpx.Client) -> None:
        self._base = settings.data_source_url.rstrip("/") + "/"
        self._patience, self._client = patience, client
        self.origin: dict[str, str | int] = {"source": "huggingface", "address": _shown_setting(self._base)}

    def offers(self) -> dict[str, str]:
        found = {}
        for name in KNOWN_FILES:
            remote = probe(self._base + name, client=self._client, patience=self._patience)
            if remote is not None:
                found[name] = remote.version
            elif name in raw.REQUIRED_FILES:
                raise _no_catalogue(name, shown(self._base + name), "Is DATA_SOURCE_URL right?")
            elif name == TYPES_FILE:
                found[name] = _version_of(PACKAGED_TYPES)
            else:
                _log.info("the source has no such file, which is fine", file=name)
        return found

    def bring(self, name: str, target: Path, admit: Admit) -> _Brought | None:
        found = download(
            lambda: self._base + name,
            target,
            client=self._client,
            patience=self._patience,
            required=name in raw.REQUIRED_FILES,
            admit=admit,
        )
        if found is not None:
            return _Brought("downloaded", found.sha256, found.version)
        return _copy(PACKAGED_TYPES, target, admit, "copied") if name == TYPES_FILE else None


class _S3:
    is_costly = True

    def __init__(self, address: str, settings: Settings, patience: Patience, client: httpx.Client) -> None:
        self._bucket, _, prefix = address.removeprefix("s3://").partition("/")
        if not self._bucket:
            raise UsageError("s3:// needs the name of a bucket", hint="For example s3://shop/catalogue.")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._address = f"s3://{self._bucket}/{self._prefix}"
        self._endpoint = settings.s3_endpoint_url
        self._patience, self._client = patience, client
        self.origin: dict[str, str | int] = {
            "source": self._address,
            "endpoint": _shown_setting(self._endpoint),
        }

    def offers(self) -> dict[str, str]:
        with self._explained():
            self._s3 = self._connect()
            try:
                pages = self._s3.get_paginator("list_objects_v2")
                pages = pages.paginate(Bucket=self._bucket, Prefix=self._prefix)
                objects = [one for page in pages for one in page.get("Contents", ())]
            finally:
                self._s3.close()
        named = {one["Key"].removeprefix(self._prefix): one.get("ETag", "") for one in objects}
        found = {name: etag for name, etag in named.items() if self._is_wanted(name)}
        for name in raw.REQUIRED_FILES:
            if name not in found:
                raise _no_catalogue(name, self._address, "Is the prefix right?")
        return found

    def bring(self, name: str, target: Path, admit: Admit) -> _Brought | None:
        found = download(
            lambda: self._signed(name),
            target,
            client=self._client,
            patience=self._patience,
            etag_is_md5=True,
            admit=admit,
            quiet="/" in name,
        )
        return found and _Brought("downloaded", found.sha256, found.version)

    def _is_wanted(self, name: str) -> bool:
        if name.startswith(tuple(f"{folder}/" for folder in raw.IMAGE_FOLDERS)) and not _is_inside(name):
            raise InputError(f"the object {name!r} leads outside the folder", where=self._address)
        return _is_catalogue_file(name)

    def _connect(self) -> Any:
        import boto3  # type: ignore[import-untyped]  # noqa: PLC0415  only this source needs it
        from botocore.config import Config  # type: ignore[import-untyped]  # noqa: PLC0415

        config = Config(
            signature_version="s3v4",
            connect_timeout=self._patience.connect_timeout,
            read_timeout=self._patience.read_timeout,
            # A server of one's own seldom has a host name for each bucket.
            s3={"addressing_style": "path" if self._endpoint else "auto"},
        )
        return boto3.client("s3", endpoint_url=self._endpoint or None, config=config)

    def _signed(self, name: str) -> str:
        with self._explained():
            wanted = {"Bucket": self._bucket, "Key": self._prefix + name}
            return str(self._s3.generate_presigned_url("get_object", Params=wanted, ExpiresIn=3600))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what boto3 raises into ServiceMissing. Its texts may quote addresses and keys: none is shown."""
        from botocore import exceptions as boto  # type: ignore[import-untyped]  # noqa: PLC0415

        try:
            yield
        except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound):
            what, hint = (
                "there are no keys for it",
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
            )
        except boto.ClientError as error:
            what = f"the server says {error.response.get('Error', {}).get('Code', 'no')}"
            hint = "Are the bucket's name and AWS_DEFAULT_REGION right, and may your keys list and read it?"
        except (boto.BotoCoreError, ValueError) as error:
            what = f"the server cannot be used ({type(error).__name__})"
            hint = "Is S3_ENDPOINT_URL right, and can the server be reached?"
        else:
            return
        raise ServiceMissing(what, where=self._address, hint=hint)


def _open(
    source: str,
    to: Path,
    settings: Settings,
    rows: int,
    seed: int,
    patience: Patience,
    closing: contextlib.ExitStack,
) -> _Source:
    if source == "sample":
        scratch = to / ".sample"
        closing.callback(shutil.rmtree, scratch, ignore_errors=True)
        return _Sample(scratch, rows, seed)
    if source == "huggingface":
        return _HuggingFace(settings, patience, closing.enter_context(patience.client()))
    if source.startswith("s3://"):
        return _S3(source, settings, patience, closing.enter_context(patience.client()))
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source)
    if scheme or not source:
        raise UsageError(f"{scheme[0] if scheme else 'nothing'} is no source", hint=f"Give {SOURCES}.")
    return _Folder(Path(source).expanduser())


# --- the folder


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


class _Import:
    def __init__(self, to: Path, source: _Source, *, refresh: bool) -> None:
        self._to, self._source, self._refresh = to, source, refresh
        self._states: dict[str, State] = {}
        self._saved = 0.0

    def run(self) -> tuple[ImportedFile, ...]:
        before = _read_manifest(self._to)
        is_same = before is not None and before.origin == self._source.origin
        if before and is_same and self._source.is_costly and not self._refresh and self._all_holds(before):
            self._manifest = before
            return self._result()
        foreign = self._foreign_files(before)
        offers = self._source.offers()
        self._refuse_to_replace([name for name in foreign if name in offers])
        self._claim(before, offers, is_same=is_same)
        for name in self._bring_tables_and_archives(offers):
            _log.info("imported", file=name, state=self._states.get(name, "already there"))
        self._manifest.complete = True
        self._save()
        return self._result()

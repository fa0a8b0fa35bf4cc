"""Where a catalogue can come from: `open_source` turns a name into one of four sources.

    sample          made here, the same on every machine for the same rows and seed
    huggingface     the challenge's files at `DATA_SOURCE_URL`, with the names of Rakuten's types
    s3://…          a bucket or a prefix in one, with keys as for any AWS client
    FOLDER          a folder that already holds a catalogue

Each says what it has and brings one whole file at a time; where the files go is `aisle.data.source`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import httpx

from aisle.catalog import TYPES_FILE
from aisle.data import raw
from aisle.data.download import Patience, download, probe, shown
from aisle.data.images import SUFFIXES
from aisle.errors import InputError, ServiceMissing, UsageError
from aisle.files import CHUNK, atomic_path
from aisle.logs import get_logger
from aisle.progress import Progress
from aisle.settings import Settings

KNOWN_FILES = (*raw.REQUIRED_FILES, *raw.OPTIONAL_FILES, raw.IMAGES_ZIP)

BAR_ABOVE_BYTES = 16 << 20

Way = Literal["downloaded", "copied", "generated"]
Admit = Callable[[Path], None]
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Brought:
    """A file that is in its place. `version` is empty if the source does not tell one from another."""

    state: Way
    sha256: str
    version: str


class Source(Protocol):
    origin: dict[str, str | int]  # when this is equal, it is the same source
    is_costly: bool  # to look at it takes a server or much work

    def offers(self) -> dict[str, str]:
        """The catalogue's files there: name → version, which is empty if nothing tells."""
        ...

    def bring(self, name: str, target: Path, admit: Admit) -> Brought | None:
        """Fetch one whole file; `admit` sees it before it is at `target`. None: it is not there after all."""
        ...

    def close(self) -> None: ...


class _Folder:
    is_costly = False
    state: Way = "copied"

    def __init__(self, folder: Path) -> None:
        raw.check_raw_folder(folder)
        self.folder = folder
        self.origin: dict[str, str | int] = {"source": str(folder.resolve())}

    def offers(self) -> dict[str, str]:
        return {name: _version_of(self.folder / name) for name in catalogue_files(self.folder)}

    def bring(self, name: str, target: Path, admit: Admit) -> Brought:
        return _copy(self.folder / name, target, admit, self.state)

    def close(self) -> None:
        pass


class _Sample(_Folder):
    is_costly = True
    state: Way = "generated"

    def __init__(self, scratch: Path, rows: int, seed: int) -> None:
        self.folder, self._rows, self._seed = scratch, rows, seed
        self.origin = {"source": "sample", "rows": rows, "seed": seed}

    def offers(self) -> dict[str, str]:
        from aisle.data.sample import write_sample  # noqa: PLC0415  it draws images, which the others do not

        shutil.rmtree(self.folder, ignore_errors=True)
        write_sample(self.folder, rows=self._rows, seed=self._seed)
        return super().offers()

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class _HuggingFace:
    is_costly = True

    def __init__(self, settings: Settings, patience: Patience) -> None:
        self._base = settings.data_source_url.rstrip("/") + "/"
        self._patience, self._client = patience, patience.client()
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
                found[name] = _version_of(raw.RAKUTEN_TYPES)
            else:
                _log.info("the source has no such file, which is fine", file=name)
        return found

    def bring(self, name: str, target: Path, admit: Admit) -> Brought | None:
        found = download(
            lambda: self._base + name,
            target,
            client=self._client,
            patience=self._patience,
            required=name in raw.REQUIRED_FILES,
            admit=admit,
        )
        if found is not None:
            return Brought("downloaded", found.sha256, found.version)
        return _copy(raw.RAKUTEN_TYPES, target, admit, "copied") if name == TYPES_FILE else None

    def close(self) -> None:
        self._client.close()


class _S3:
    is_costly = True

    def __init__(self, address: str, settings: Settings, patience: Patience) -> None:
        self._bucket, _, prefix = address.removeprefix("s3://").partition("/")
        if not self._bucket:
            raise UsageError("s3:// needs the name of a bucket", hint="For example s3://shop/catalogue.")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._address = f"s3://{self._bucket}/{self._prefix}"
        self._endpoint = settings.s3_endpoint_url
        self._patience, self._client = patience, patience.client()
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

    def bring(self, name: str, target: Path, admit: Admit) -> Brought | None:
        found = download(
            lambda: self._signed(name),
            target,
            client=self._client,
            patience=self._patience,
            etag_is_md5=True,
            admit=admit,
            quiet="/" in name,
        )
        return Brought("downloaded", found.sha256, found.version) if found else None

    def close(self) -> None:
        self._client.close()

    def _is_wanted(self, name: str) -> bool:
        is_image = name.startswith(tuple(f"{folder}/" for folder in raw.IMAGE_FOLDERS))
        if is_image and ".." in name.split("/"):
            raise InputError(f"the object {name!r} leads outside the folder", where=self._address)
        return is_catalogue_file(name)

    def _connect(self) -> Any:
        import boto3  # noqa: PLC0415  only this source needs it
        from botocore.config import Config  # noqa: PLC0415

        config = Config(
            signature_version="s3v4",
            connect_timeout=self._patience.connect_timeout,
            read_timeout=self._patience.read_timeout,
            # A server of one's own seldom has a host name for each bucket.
            s3={"addressing_style": "path" if self._endpoint else "auto"},
        )
        return boto3.Session().client("s3", endpoint_url=self._endpoint or None, config=config)

    def _signed(self, name: str) -> str:
        with self._explained():
            wanted = {"Bucket": self._bucket, "Key": self._prefix + name}
            return str(self._s3.generate_presigned_url("get_object", Params=wanted, ExpiresIn=3600))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what boto3 raises into ServiceMissing. Its own texts may quote addresses and keys."""
        from botocore import exceptions as boto  # noqa: PLC0415

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


def open_source(source: str, to: Path, *, settings: Settings, rows: int, seed: int, patience: Patience) -> Source:
    """The source of that name, to be closed. `to` is where its files will go.

    Raises UsageError for another name, InputError for a folder without a catalogue.
    """
    if source == "sample":
        return _Sample(to / ".sample", rows, seed)
    if source == "huggingface":
        return _HuggingFace(settings, patience)
    if source.startswith("s3://"):
        return _S3(source, settings, patience)
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source)
    if scheme or not source:
        raise UsageError(
            f"{scheme[0] if scheme else 'nothing'} is no source",
            hint="Give sample, huggingface, s3://BUCKET/PREFIX or a folder.",
        )
    return _Folder(Path(source).expanduser())


def catalogue_files(folder: Path) -> list[str]:
    """The names of a catalogue's files in `folder`, single images as `image_train/…` and `image_test/…`."""
    images = (path for name in raw.IMAGE_FOLDERS for path in (folder / name).rglob("*"))
    names = (path.relative_to(folder).as_posix() for path in (*folder.iterdir(), *images))
    return [name for name in names if is_catalogue_file(name) and (folder / name).is_file()]


def is_catalogue_file(name: str) -> bool:
    """Whether a catalogue has a file of this name; such a name never leads outside its folder."""
    top, _, below = name.partition("/")
    if not below:
        return name in KNOWN_FILES or any(fnmatchcase(name, one) for one in (raw.CHECKED_PATTERN, raw.GOLD_PATTERN))
    is_image = PurePosixPath(below).suffix.lower() in SUFFIXES
    return top in raw.IMAGE_FOLDERS and is_image and _is_inside(below)


def _is_inside(name: str) -> bool:
    """Whether no part of the name is hidden, empty or `..`, and none could be read as another one."""
    parts = name.split("/")
    return name.isprintable() and "\\" not in name and not any(not p or p.startswith(".") for p in parts)


def _copy(source: Path, target: Path, admit: Admit, state: Way) -> Brought:
    version, size, sum_of_it = _version_of(source), source.stat().st_size, hashlib.sha256()
    with atomic_path(target) as temporary:
        with contextlib.ExitStack() as stack:
            original, copy = stack.enter_context(source.open("rb")), stack.enter_context(temporary.open("wb"))
            bar = Progress(target.name, total=size, unit="B") if size > BAR_ABOVE_BYTES else None
            if bar is not None:
                stack.enter_context(bar)
            while chunk := original.read(CHUNK):
                copy.write(chunk)
                sum_of_it.update(chunk)
                if bar is not None:
                    bar.add(len(chunk))
        admit(temporary)
    return Brought(state, sum_of_it.hexdigest(), version)


def _version_of(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def _no_catalogue(missing: str, where: str, hint: str) -> InputError:
    return InputError(f"is not a catalogue: {missing} is missing", where=where, hint=hint)


def _shown_setting(address: str) -> str:
    try:
        return shown(address)
    except httpx.InvalidURL:
        raise UsageError("the address of the source is not one of the web (http://… or https://…)") from None

"""A batch out of a request: uploaded files, or a location that the shop allows; and what a role may ask for."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from aisle.batch.locations import Locations
from aisle.batch.spool import IMAGES as IMAGES_FILE
from aisle.batch.spool import TABLE as TABLE_FILE
from aisle.batch.spool import Spool
from aisle.errors import InputError, ServiceMissing, UsageError
from aisle.files import fsync
from aisle.service.uploads import FORMS
from aisle.settings import Settings
from aisle.store.users import Role
from aisle.web.problems import Problem, Refusal

TABLE, IMAGES, LOCATION = "table", "images", "location"
BODY_SECONDS = 900
MAX_NAME = 200
MAX_LOCATION = 1000
MAX_JSON_BYTES = 16 << 10
_TABLES = (".csv", ".parquet")
_COPY = 1 << 20


@dataclass(frozen=True, slots=True)
class Quota:
    """How many batches of a user may be under way, and how many rows each may have."""

    batches: int
    rows: int


def quotas(text: str) -> dict[Role, Quota]:
    """What `BATCH_QUOTAS` says; a role that it does not name may not ask for batches. Raises UsageError."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, quota = part.partition("=")
        numbers = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,12})\s*", quota)
        if numbers is None or name.strip() not in set(Role):
            raise UsageError(
                f"BATCH_QUOTAS: {part!r} is not ROLE=BATCHES/ROWS", where="settings",
                hint=f"The roles are {', '.join(Role)}.",
            )  # fmt: skip
        found[Role(name.strip())] = Quota(int(numbers[1]), int(numbers[2]))
    return found


@dataclass(frozen=True, slots=True)
class Intake:
    """What batches are taken in with. `keep_days` is how long they are kept once they are over."""

    spool: Spool
    locations: Locations
    quotas: Mapping[Role, Quota]
    keep_days: int

    @classmethod
    def of(cls, settings: Settings) -> Intake:
        """Raises UsageError for settings that cannot be used."""
        return cls(
            Spool(settings.batches_path),
            Locations(settings.batch_locations, settings.s3_endpoint_url),
            quotas(settings.batch_quotas),
            settings.batches_keep_days,
        )


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for: a table that is in the folder now, or one at a `location`. `images` is what they are called.

    `fingerprint` differs where the content of the request does.
    """

    name: str
    location: str | None
    images: str | None
    fingerprint: str


async def read_order(request: Request, folder: Path, locations: Locations) -> Order:
    """Read a request, its files into `folder`.

    Raises Refusal that says what cannot be used, ServiceMissing where the disk takes no more.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            if kind == "application/json":
                return _located(_fields(await _small_body(request)), locations)
            if kind == FORMS[0]:
                return await _uploaded(request, folder)
    except TimeoutError:
        raise Refusal(Problem.BODY_TOO_SLOW, seconds=BODY_SECONDS, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise Refusal(Problem.BAD_REQUEST, reason="the client has gone") from None
    except OSError as error:
        raise _no_room(folder, error) from None
    raise Refusal(Problem.WRONG_CONTENT_TYPE)


def _no_room(folder: Path, error: OSError) -> ServiceMissing:
    return ServiceMissing(f"an upload cannot be kept: {error.strerror}", where=folder)


async def _small_body(request: Request) -> bytes:
    """A body that only names places: nobody has to parse more. Raises Refusal."""
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > MAX_JSON_BYTES:
            limit = f"{MAX_JSON_BYTES >> 10} KiB"
            raise Refusal(Problem.BODY_TOO_LARGE, limit=limit, headers={"Connection": "close"})
    return bytes(body)


def _fields(body: bytes) -> Mapping[str, Any]:
    try:
        fields = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Refusal(Problem.BROKEN_JSON) from None
    if not isinstance(fields, dict):
        raise Refusal(Problem.BROKEN_JSON)
    return fields


def _located(fields: Mapping[str, Any], locations: Locations) -> Order:
    if not fields.keys() <= {LOCATION, IMAGES}:
        raise Refusal(Problem.FIELD_INVALID, field="…", needed=f"{LOCATION}, {IMAGES}")
    table, images = _address(fields, LOCATION), _address(fields, IMAGES)
    if table is None:
        raise Refusal(Problem.BATCH_WITHOUT_TABLE)
    for address in filter(None, (table, images)):
        try:
            locations.place(address)
        except InputError:
            raise Refusal(Problem.BATCH_LOCATION) from None
    fingerprint = hashlib.sha256(json.dumps([table, images]).encode()).hexdigest()
    return Order(table.rstrip("/").rpartition("/")[2][:MAX_NAME], table, images, fingerprint)


def _address(fields: Mapping[str, Any], name: str) -> str | None:
    found = fields.get(name)
    if found is None or found == "":
        return None
    if not isinstance(found, str) or not found.isprintable():
        raise Refusal(Problem.FIELD_INVALID, field=name, needed="text / du texte")
    if len(found) > MAX_LOCATION:
        raise Refusal(Problem.FIELD_TOO_LONG, field=name, limit=MAX_LOCATION)
    return found


async def _uploaded(request: Request, folder: Path) -> Order:
    try:
        form = await request.form(max_files=3, max_fields=3, max_part_size=_COPY)
    except Refusal:
        raise
    except HTTPException:
        raise Refusal(Problem.BROKEN_FORM) from None
    try:
        return await _kept(form.multi_items(), folder)
    finally:
        await form.close()


async def order_of(items: Sequence[tuple[str, UploadFile | str]], folder: Path, locations: Locations) -> Order:
    """The same of the fields of a form that has been read: files, or text that says where they are."""
    texts = {name: value for name, value in items if isinstance(value, str)}
    if LOCATION in texts:
        return _located(texts, locations)
    try:
        return await _kept(items, folder)
    except OSError as error:
        raise _no_room(folder, error) from None


async def _kept(items: Sequence[tuple[str, UploadFile | str]], folder: Path) -> Order:
    table, images = _files(items)
    suffix = Path(_name(table)).suffix.lower()
    if suffix not in _TABLES or (images is not None and Path(_name(images)).suffix.lower() != ".zip"):
        raise Refusal(Problem.BATCH_TABLE_KIND)
    sums = [await run_in_threadpool(_copy, table.file, folder / f"{TABLE_FILE}{suffix}")]
    if images is not None:
        sums.append(await run_in_threadpool(_copy, images.file, folder / IMAGES_FILE))
    names = [_name(one) for one in (table, images) if one is not None]
    fingerprint = hashlib.sha256(json.dumps([names, sums]).encode()).hexdigest()
    return Order(_name(table), None, _name(images) if images is not None else None, fingerprint)


def _files(items: Sequence[tuple[str, UploadFile | str]]) -> tuple[UploadFile, UploadFile | None]:
    found: dict[str, UploadFile] = {}
    for name, value in items:
        if name not in (TABLE, IMAGES):
            raise Refusal(Problem.FIELD_INVALID, field="…", needed=f"{TABLE}, {IMAGES}")
        if name in found:
            raise Refusal(Problem.REPEATED_FIELD, field=name)
        if isinstance(value, UploadFile) and value.filename:
            found[name] = value
        elif isinstance(value, str) and value:
            raise Refusal(Problem.FIELD_INVALID, field=name, needed="a file / un fichier")
    if TABLE not in found:
        raise Refusal(Problem.BATCH_WITHOUT_TABLE)
    return found[TABLE], found.get(IMAGES)


def _name(upload: UploadFile) -> str:
    """What the user calls a file; it is shown, and never a path."""
    name = (upload.filename or "").replace("\\", "/").rpartition("/")[2]
    shown = "".join(letter if letter.isprintable() else " " for letter in name).strip()
    stem, suffix = Path(shown).stem, Path(shown).suffix
    return f"{stem[: MAX_NAME - len(suffix)]}{suffix}" if len(suffix) < MAX_NAME else shown[:MAX_NAME]


def _copy(source: BinaryIO, target: Path) -> str:
    """Copy a file; its SHA-256."""
    source.seek(0)
    sum_of_it = hashlib.sha256()
    with target.open("wb") as copy:
        while block := source.read(_COPY):
            copy.write(block)
            sum_of_it.update(block)
    fsync(target)
    return sum_of_it.hexdigest()

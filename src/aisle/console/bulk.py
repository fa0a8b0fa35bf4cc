"""A whole table at once: send it, watch the job, look through what the model says of its rows, take it away.

A job is a batch of the API (`/batches`), asked for by a form: the same quotas, and everybody sees their own. Each
form has a key, so that one that is sent twice is one job.
"""

from __future__ import annotations

import math
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from aisle.console.asking import (
    CSRF,
    ROOT,
    AForm,
    TheDesk,
    TheVisitor,
    form_of,
    go_to,
    page,
    part,
    speech_of,
    text_of,
    wants_part,
)
from aisle.console.desk import Desk
from aisle.console.refusing import in_words
from aisle.console.sessions import Visitor
from aisle.console.tables import LARGEST_ID, PAGE, before_of, frames_as_csv
from aisle.errors import ImageError, InputError
from aisle.store import batches
from aisle.store.batches import Batch, BatchState
from aisle.store.engine import reading
from aisle.web.problems import Problem, Refusal

if TYPE_CHECKING:
    from aisle.batch import glances

HERE = f"{ROOT}/bulk"
BODY_SECONDS = 900
JOBS = 20
IDLE = timedelta(seconds=30)
"""After so long without a worker, the page says that there is none."""
FEW_TYPES = 300
"""So many are offered in a list; else a code is typed."""
PICTURE_HEADERS = {"cache-control": "private, max-age=86400, immutable"}
FILES, TABLE, IMAGES, LOCATION = "files", "table", "images", "location"
FILTERS = ("type", "decision", "low", "high", "error")
COLUMNS = ("row", "key", "title", "predicted", "label", "confidence", "decision", "error")

Id = Annotated[str, InPath(pattern="^[0-9a-f]{32}$")]
Row = Annotated[int, InPath(ge=1, le=LARGEST_ID)]
router = APIRouter(prefix="/bulk")


@dataclass(frozen=True)
class Watched:
    """A job as it is now. `is_idle`: there is something to do, and nobody does it."""

    batch: Batch
    rate: float | None
    seconds_left: int | None
    is_idle: bool


@router.get("")
async def ask(
    request: Request,
    who: TheVisitor,
    desk: TheDesk,
    after: Annotated[str, Query(pattern=r"^(\d{1,16}-[0-9a-f]{32})?$")] = "",
) -> Response:
    return await _show(request, who, desk, after=after)


@router.post("")
async def send(
    request: Request, who: TheVisitor, desk: TheDesk, key: Annotated[str, Query(pattern="^[0-9a-f]{32}$")] = ""
) -> Response:
    """Begin a job. What is wrong with the form is said above it; a script is told where the job is."""

    async def fields() -> Sequence[tuple[str, Any]]:
        form = await form_of(request, who.secret, seconds=BODY_SECONDS)
        return [(_field(name, value), value) for name, value in form.multi_items() if name != CSRF]

    try:
        batch = await desk.send_batch(fields, request, who.identity, key or uuid.uuid4().hex)
    except Refusal as refusal:
        if wants_part(request) or refusal.problem is Problem.FORM_NOT_OURS:
            raise
        return await _show(request, who, desk, refusal=refusal)
    finally:
        await request.close()
    address = f"{HERE}/{batch.id}"
    if wants_part(request):
        return Response(status_code=HTTPStatus.CREATED, headers={"location": address})
    return go_to(address)


@router.post("/cancel")
async def cancel(who: TheVisitor, form: AForm, desk: TheDesk) -> Response:
    batch = await run_in_threadpool(desk.cancel_batch, text_of(form, "id"), who.identity)
    return go_to(f"{HERE}/{batch.id}")


@router.post("/delete")
async def delete(who: TheVisitor, form: AForm, desk: TheDesk) -> Response:
    await run_in_threadpool(desk.delete_batch, text_of(form, "id"), who.identity)
    return go_to(HERE)


@router.get("/{batch_id}")
async def job(request: Request, batch_id: Id, who: TheVisitor, desk: TheDesk) -> Response:
    asked = request.query_params
    watched = await run_in_threadpool(_watched, desk, batch_id, who)
    fields = {name: asked.get(name, "")[:100].strip() for name in FILTERS}
    query = urlencode({name: value for name, value in fields.items() if value})
    after = before_of(asked.get("after", "")) or 0
    found = await run_in_threadpool(_look, desk, watched.batch, fields, after)
    return page(
        request,
        "job.html",
        place="bulk",
        watched=watched,
        found=found,
        wanted=fields,
        query=query,
        after=after,
        few=FEW_TYPES,
        has_pictures=desk.batch_images(watched.batch) is not None,
        keep_days=desk.settings.batches_keep_days,
    )


@router.get("/{batch_id}/watch")
async def watch(request: Request, batch_id: Id, who: TheVisitor, desk: TheDesk) -> Response:
    """How far it is; a script asks until it is over."""
    return part(request, "parts/watched.html", watched=await run_in_threadpool(_watched, desk, batch_id, who))


@router.get("/{batch_id}/results.{kind}")
async def results(
    request: Request,
    batch_id: Id,
    kind: Annotated[str, InPath(pattern="^(csv|ndjson|parquet)$")],
    who: TheVisitor,
    desk: TheDesk,
    partial: bool = False,
) -> Response:
    return await desk.batch_results(batch_id, kind, partial=partial, request=request, who=who.identity)


@router.get("/{batch_id}/shown.csv")
async def export(request: Request, batch_id: Id, who: TheVisitor, desk: TheDesk) -> Response:
    """The rows that the filter of the page lets through, all of them."""
    batch = await run_in_threadpool(desk.batch, batch_id, who.identity)
    frames = desk.spool.glances(batch.id).frames(_wanted(request.query_params))
    name = f"{re.sub(r'[^A-Za-z0-9._-]', '_', Path(batch.name).stem)}-shown.csv"
    return frames_as_csv(name, COLUMNS, (frame.select(COLUMNS).iter_rows() for frame in frames))


@router.get("/{batch_id}/images/{row}.jpg")
async def picture(batch_id: Id, row: Row, who: TheVisitor, desk: TheDesk) -> Response:
    """The image of a row, small, and encoded anew: nothing of a merchant's file goes to the browser."""
    content = await run_in_threadpool(_picture, desk, batch_id, row, who)
    return Response(content, media_type="image/jpeg", headers=PICTURE_HEADERS)


async def _show(
    request: Request, who: Visitor, desk: Desk, *, after: str = "", refusal: Refusal | None = None
) -> Response:
    jobs, newer, older = await run_in_threadpool(desk.batches, who.identity, count=JOBS, after=after)
    active = await run_in_threadpool(_active, desk, who)
    why = "" if refusal is None else in_words(speech_of(request), refusal)
    return page(
        request,
        "bulk.html",
        status=HTTPStatus.OK if refusal is None else HTTPStatus(refusal.problem.status),
        headers=None if refusal is None else refusal.headers,
        place="bulk",
        jobs=jobs,
        newer=newer if after else None,
        older=older,
        quota=desk.quota(who.identity),
        active=active,
        key=uuid.uuid4().hex,
        why=why,
        was_sent=refusal is not None and refusal.problem is Problem.IDEMPOTENCY_KEY_USED,
        max_mib=desk.settings.batch_max_mib,
        locations=[one.strip() for one in desk.settings.batch_locations.split(",") if one.strip()],
    )


def _active(desk: Desk, who: Visitor) -> int:
    with reading(desk.engine) as connection:
        return batches.active_count(connection, who.name)


def _field(name: str, value: object) -> str:
    """A page has one field for both files: a zip holds the images."""
    if name == FILES and isinstance(value, UploadFile):
        return IMAGES if (value.filename or "").lower().endswith(".zip") else TABLE
    return name


def _watched(desk: Desk, batch_id: str, who: Visitor) -> Watched:
    batch = desk.batch(batch_id, who.identity)
    rate, left = batch.pace(desk.clock())
    return Watched(batch, rate, left, not batch.is_over and _is_idle(desk, batch))


def _is_idle(desk: Desk, batch: Batch) -> bool:
    """Whether no worker has a piece of any batch, and none has begun or done one of this lately."""
    with reading(desk.engine) as connection:
        if batches.is_anybody_at_work(connection, now=desk.clock()):
            return False
    if batch.state is BatchState.WAITING:
        return desk.clock() - batch.created_at > IDLE
    changed_at = desk.spool.glances(batch.id).changed_at  # by the clock of the disk
    lately = changed_at is not None and time.time() - changed_at < IDLE.total_seconds()
    return not lately and desk.clock() - (batch.started_at or batch.created_at) > IDLE


def _look(desk: Desk, batch: Batch, fields: dict[str, str], after: int) -> glances.Page | None:
    """None where there is nothing to look at."""
    found = desk.spool.glances(batch.id)
    if found.changed_at is None:
        return None
    return found.page(_wanted(fields), after=after, count=PAGE, rows=batch.rows)


def _wanted(asked: Any) -> glances.Wanted:
    from aisle.batch import glances  # noqa: PLC0415  tables are not what a service starts with

    return glances.Wanted(
        type=asked.get("type", "").strip(),
        decision=asked.get("decision", "").strip(),
        low=_share(asked.get("low", "")),
        high=_share(asked.get("high", "")),
        error=asked.get("error", "").strip(),
    )


def _share(text: str) -> float | None:
    """Per cent as a share; None for what is no number."""
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        return None
    return min(max(number / 100, 0.0), 1.0) if math.isfinite(number) else None


def _picture(desk: Desk, batch_id: str, row: int, who: Visitor) -> bytes:
    from aisle.batch.thumbnails import thumbnail  # noqa: PLC0415  decoders are the model's

    batch = desk.batch(batch_id, who.identity)
    try:
        images = desk.batch_images(batch)
        found = desk.spool.glances(batch.id).find(row) if images is not None else None
        if images is not None and found is not None and found["image_at"] is not None:
            return thumbnail(images, found["image_at"], found["image_bytes"])
    except (ImageError, InputError):
        pass
    raise Refusal(Problem.NOT_FOUND)

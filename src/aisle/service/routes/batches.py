"""`/batches`: a table of products in, its predictions out, some time later. A worker does them: `aisle worker`."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import IntegrityError

from aisle.auth.access import SignedIn
from aisle.auth.tokens import Identity
from aisle.batch.locations import Locations
from aisle.service.batches import IMAGES, LOCATION, TABLE, Order, Quota, read_order
from aisle.service.limits import limited
from aisle.service.parts import Parts, TheParts
from aisle.store import batches
from aisle.store.batches import Batch, BatchState, NewBatch
from aisle.store.engine import reading, writing
from aisle.web.answers import Link, answered, documented
from aisle.web.problems import Problem, Refusal
from aisle.web.requests import note

PATH = "/batches"
PAGE = 20
RETRY_AFTER = 5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ResultFormat(StrEnum):
    CSV = "csv"
    NDJSON = "ndjson"
    PARQUET = "parquet"


_MEDIA_TYPES = {
    ResultFormat.CSV: "text/csv",
    ResultFormat.NDJSON: "application/x-ndjson",
    ResultFormat.PARQUET: "application/vnd.apache.parquet",
}


class RowError(BaseModel):
    row: int = Field(description="Which row of the table, from 1.", examples=[17])
    error: str = Field(examples=["there is nothing to classify"])


class BatchBody(BaseModel):
    """`rows` is null until a worker has looked at the table; `problem` says why it failed, or what it waits for."""

    id: str = Field(examples=["0c8d5e6f7a8b4c9d0e1f2a3b4c5d6e7f"])
    state: BatchState = Field(examples=["running"])
    name: str = Field(description="What the table is called.", examples=["catalogue.csv"])
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    rows: int | None = Field(None, examples=[100_000])
    done: int = Field(description="Rows that are done.", examples=[40_960])
    accepted: int = Field(description="Of these, with the decision `accept`.", examples=[35_012])
    errors: int = Field(description="Of these, with an error.", examples=[12])
    first_errors: list[RowError]
    rows_per_second: float | None = Field(None, examples=[5120.0])
    seconds_left: int | None = Field(None, examples=[12])
    model: str | None = Field(None, description="The model of all rows.", examples=["3f2a9c0d1b7e"])
    problem: str | None = None


class BatchPage(BaseModel):
    batches: list[BatchBody]
    next: str | None = Field(None, description="For `after`, where there are more.")


_EXAMPLE: dict[str, Any] = {
    "id": "0c8d5e6f7a8b4c9d0e1f2a3b4c5d6e7f",
    "state": "running",
    "name": "catalogue.csv",
    "created_at": "2026-11-24T08:00:00Z",
    "started_at": "2026-11-24T08:00:01Z",
    "ended_at": None,
    "rows": 100_000,
    "done": 40_960,
    "accepted": 35_012,
    "errors": 1,
    "first_errors": [{"row": 17, "error": "there is nothing to classify"}],
    "rows_per_second": 5120.0,
    "seconds_left": 12,
    "model": "3f2a9c0d1b7e",
    "problem": None,
}
_FILES = {name: {"type": "string", "format": "binary"} for name in (TABLE, IMAGES)}
_PLACES = {name: {"type": "string"} for name in (LOCATION, IMAGES)}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A table of products (CSV or parquet) and perhaps a zip of their images, or where they are.",
        "content": {
            "multipart/form-data": {"schema": {"type": "object", "required": [TABLE], "properties": _FILES}},
            "application/json": {
                "schema": {"type": "object", "required": [LOCATION], "properties": _PLACES},
                "example": {"location": "s3://shop/catalogue.parquet"},
            },
        },
    }
}
_ASKED = (Problem.NOT_SIGNED_IN, Problem.UNAVAILABLE)
_ONE = (*_ASKED, Problem.NO_SUCH_BATCH, Problem.FIELD_INVALID)
_CREATE = (
    *_ASKED, Problem.NOT_ALLOWED, Problem.TOO_MANY_REQUESTS, Problem.TOO_MANY_BATCHES, Problem.BODY_TOO_LARGE,
    Problem.BODY_TOO_SLOW, Problem.BAD_REQUEST, Problem.WRONG_CONTENT_TYPE, Problem.BROKEN_FORM, Problem.BROKEN_JSON,
    Problem.FIELD_INVALID, Problem.FIELD_TOO_LONG, Problem.REPEATED_FIELD, Problem.BATCH_WITHOUT_TABLE,
    Problem.BATCH_TABLE_KIND, Problem.BATCH_LOCATION, Problem.IDEMPOTENCY_KEY_USED,
)  # fmt: skip
_ITSELF = {"batch_id": "$response.body#/id"}
_LEADS_TO = {
    "progress": Link("get", PATH + "/{batch_id}", _ITSELF),
    "results": Link("get", PATH + "/{batch_id}/results", _ITSELF),
    "cancel": Link("post", PATH + "/{batch_id}/cancel", _ITSELF),
    "delete": Link("delete", PATH + "/{batch_id}", _ITSELF),
}
_CREATED = answered(_EXAMPLE, status=202, leads_to=_LEADS_TO) | documented(*_CREATE)
_LISTED = answered({"batches": [_EXAMPLE], "next": None}) | documented(*_ASKED, Problem.FIELD_INVALID)
_CSV = (
    "index,predicted,label,confidence,decision,top_k,model_version,error\n"
    "7,2583,Piscine et accessoires,0.97,accept,[],3f2a9c0d1b7e,\n"
)
_NDJSON = '{"index": "7", "predicted": "2583", "label": "Piscine et accessoires", "confidence": 0.97}\n'
_SHOWN = {
    kind: {"schema": {"type": "string"}, "example": example}
    for kind, example in zip(_MEDIA_TYPES.values(), (_CSV, _NDJSON, "PAR1…"), strict=True)
}
_RESULTS = (*_ONE, Problem.BATCH_NOT_DONE, Problem.BATCH_WITHOUT_RESULT, Problem.TOO_MANY_REQUESTS)

BatchId = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
router = APIRouter(tags=["batches"])


@router.post(PATH, status_code=202, openapi_extra=_BODY, responses=_CREATED)
async def create_batch(
    request: Request,
    response: Response,
    parts: TheParts,
    who: Annotated[Identity, Depends(limited("batches"))],
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> BatchBody:
    """Have a whole table predicted. The answer comes at once; GET /batches/ID tells how far it is.

    Sent twice with the same `Idempotency-Key`, it is the same batch.
    """
    batch, is_new = await created(request, parts, who, idempotency_key, read_order)
    response.headers["Location"] = f"{PATH}/{batch.id}"
    if not is_new:
        response.headers["Idempotency-Replayed"] = "true"
    return _body(batch, parts)


async def created(
    request: Request,
    parts: Parts,
    who: Identity,
    key: str | None,
    read: Callable[[Request, Path, Locations], Awaitable[Order]],
) -> tuple[Batch, bool]:
    """The batch that `read` finds in a request, and whether it was not there yet. Raises Refusal."""
    quota = parts.intake.quotas.get(who.role)
    if quota is None:
        needed = ", ".join(role.value for role in parts.intake.quotas)
        raise Refusal(Problem.NOT_ALLOWED, role=who.role.value, needed=needed)
    await run_in_threadpool(_refuse_early, parts, who, quota, key)
    with parts.intake.spool.incoming() as folder:
        order = await read(request, folder, parts.intake.locations)
        batch, is_new = await run_in_threadpool(_add, parts, who, quota, order, folder, key)
    note(request, batch=batch.id)
    return batch, is_new


def _refuse_early(parts: Parts, who: Identity, quota: Quota, key: str | None) -> None:
    """Before a body is read that would be refused in the end. Raises Refusal."""
    with reading(parts.engine) as connection:
        is_again = key is not None and batches.with_key(connection, who.user, key) is not None
        if not is_again and batches.active_count(connection, who.user) >= quota.batches:
            raise _too_many(quota)


def _too_many(quota: Quota) -> Refusal:
    return Refusal(Problem.TOO_MANY_BATCHES, limit=quota.batches, headers={"Retry-After": str(RETRY_AFTER)})


def _add(
    parts: Parts, who: Identity, quota: Quota, order: Order, folder: Path, key: str | None
) -> tuple[Batch, bool]:
    """The batch, and whether it was not there yet."""
    new = NewBatch(
        id=uuid.uuid4().hex,
        user_name=who.user,
        name=order.name,
        location=order.location,
        images=order.images,
        idempotency_key=key,
        fingerprint=order.fingerprint,
        max_rows=quota.rows,
    )
    try:
        with writing(parts.engine) as connection:
            batches.lock_user(connection, who.user)
            earlier = batches.with_key(connection, who.user, key) if key is not None else None
            if earlier is None:
                if batches.active_count(connection, who.user) >= quota.batches:
                    raise _too_many(quota)
                batch = batches.add(connection, new, at=parts.clock())
                parts.intake.spool.keep(folder, new.id)  # before a worker can see it
                return batch, True
    except IntegrityError:  # the same request, at the same moment
        with reading(parts.engine) as connection:
            earlier = batches.with_key(connection, who.user, str(key))
        parts.intake.spool.remove(new.id)
    if earlier is None or earlier.fingerprint != order.fingerprint:
        raise Refusal(Problem.IDEMPOTENCY_KEY_USED)
    return earlier, False


@router.get(PATH, responses=_LISTED)
def list_batches(
    parts: TheParts,
    who: SignedIn,
    limit: Annotated[int, Query(ge=1, le=100)] = PAGE,
    after: Annotated[str, Query(pattern=r"^(\d{1,16}-[0-9a-f]{32})?$")] = "",
) -> BatchPage:
    """Your batches, the newest first."""
    shown, following = listed(parts, who, count=limit, after=after)
    return BatchPage(batches=[_body(batch, parts) for batch in shown], next=following)


def listed(parts: Parts, who: Identity, *, count: int, after: str) -> tuple[list[Batch], str | None]:
    """A page of one's batches, and what comes `after` it, None: nothing."""
    with reading(parts.engine) as connection:
        found = batches.page(connection, who.user, count=count + 1, after=_position(after))
    return found[:count], _cursor(found[count - 1]) if len(found) > count else None


def listed_before(parts: Parts, who: Identity, *, count: int, after: str) -> str:
    """`after` of the page that comes ahead of this one; empty: it is the first."""
    position = _position(after)
    if position is None:
        return ""
    with reading(parts.engine) as connection:
        newer = batches.newer_page(connection, who.user, count=count, after=position)
    return "" if newer is None else _cursor(newer)


@router.get(PATH + "/{batch_id}", responses=answered(_EXAMPLE) | documented(*_ONE))
def get_batch(batch_id: BatchId, parts: TheParts, who: SignedIn) -> BatchBody:
    """How far a batch is."""
    return _body(found(parts, batch_id, who), parts)


@router.post(PATH + "/{batch_id}/cancel", responses=answered(_EXAMPLE) | documented(*_ONE))
def cancel_batch(batch_id: BatchId, parts: TheParts, who: SignedIn) -> BatchBody:
    """Stop a batch; what is done of it can still be had. One that is over stays as it is."""
    return _body(cancelled(parts, batch_id, who), parts)


def cancelled(parts: Parts, batch_id: str, who: Identity) -> Batch:
    found(parts, batch_id, who)
    with writing(parts.engine) as connection:
        batches.cancel(connection, batch_id, at=parts.clock())
    return found(parts, batch_id, who)


@router.delete(PATH + "/{batch_id}", status_code=204, responses=documented(*_ONE))
def delete_batch(batch_id: BatchId, parts: TheParts, who: SignedIn) -> None:
    """Stop a batch if it is under way, and delete all that there is of it."""
    deleted(parts, batch_id, who)


def deleted(parts: Parts, batch_id: str, who: Identity) -> None:
    found(parts, batch_id, who)
    with writing(parts.engine) as connection:
        batches.remove(connection, [batch_id])
    parts.intake.spool.remove(batch_id)


@router.get(
    PATH + "/{batch_id}/results",
    response_class=Response,
    responses={200: {"content": _SHOWN}, **documented(*_RESULTS)},
)
def get_results(
    batch_id: BatchId,
    request: Request,
    parts: TheParts,
    who: Annotated[Identity, Depends(limited("results"))],
    format: ResultFormat | None = None,
    partial: bool = False,
) -> Response:
    """One row for each row of the table, in its order: CSV, NDJSON or parquet, by `format` or `Accept`.

    `partial`: of a batch that is not done, the rows from the first on as far as they are, as CSV or NDJSON.
    """
    batch = found(parts, batch_id, who)
    chosen = format or _accepted(request.headers.get("accept", ""))
    return results_of(parts, batch, chosen, partial=partial)


def results_of(parts: Parts, batch: Batch, chosen: ResultFormat, *, partial: bool) -> Response:
    from aisle.batch import results  # noqa: PLC0415  tables are not what a service starts with

    files = parts.intake.spool.parts(batch.id)
    is_whole = batch.state is BatchState.DONE
    if chosen is ResultFormat.PARQUET and partial and not is_whole:
        raise Refusal(Problem.FIELD_INVALID, field="format", needed="csv, ndjson")
    if not is_whole and not partial:
        raise _no_result(batch)
    name = f"{re.sub(r'[^A-Za-z0-9._-]', '_', Path(batch.name).stem)}-types.{chosen.value}"
    if chosen is ResultFormat.PARQUET:
        return FileResponse(files.output.path, media_type=_MEDIA_TYPES[chosen], filename=name)
    frames = results.result_frames(files) if is_whole else results.partial_frames(files)
    write = results.as_csv if chosen is ResultFormat.CSV else results.as_ndjson
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(_begun(write(frames)), media_type=_MEDIA_TYPES[chosen], headers=headers)


def _no_result(batch: Batch) -> Refusal:
    if batch.is_over:
        return Refusal(Problem.BATCH_WITHOUT_RESULT, state=batch.state.value, done=batch.done)
    return Refusal(
        Problem.BATCH_NOT_DONE,
        state=batch.state.value,
        done=batch.done,
        rows="?" if batch.rows is None else batch.rows,
        headers={"Retry-After": str(RETRY_AFTER)},
    )


def _begun(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same, and what goes wrong at their beginning goes wrong now, before an answer is begun."""
    first = next(blocks, b"")

    def all_of_them() -> Iterator[bytes]:
        yield first
        yield from blocks

    return all_of_them()


def found(parts: Parts, batch_id: str, who: Identity) -> Batch:
    with reading(parts.engine) as connection:
        batch = batches.find(connection, batch_id, user=who.user)
    if batch is None:  # or another's, which nobody is to know
        raise Refusal(Problem.NO_SUCH_BATCH, days=parts.intake.keep_days)
    return batch


def _body(batch: Batch, parts: Parts) -> BatchBody:
    rate, left = batch.pace(parts.clock())
    return BatchBody(
        id=batch.id,
        state=batch.state,
        name=batch.name,
        created_at=batch.created_at,
        started_at=batch.started_at,
        ended_at=batch.ended_at,
        rows=batch.rows,
        done=batch.done,
        accepted=batch.accepted,
        errors=batch.errors,
        first_errors=[RowError(row=one["row"], error=one["error"]) for one in batch.first_errors],
        rows_per_second=rate,
        seconds_left=left,
        model=batch.model_version,
        problem=batch.problem,
    )


def _cursor(batch: Batch) -> str:
    return f"{(batch.created_at - _EPOCH) // timedelta(microseconds=1)}-{batch.id}"


def _position(cursor: str) -> tuple[datetime, str] | None:
    if not cursor:
        return None
    microseconds, _, batch_id = cursor.partition("-")
    return _EPOCH + timedelta(microseconds=int(microseconds)), batch_id


def _accepted(accept: str) -> ResultFormat:
    """The first format that the client names; CSV where it names none."""
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    by_kind = {kind: format for format, kind in _MEDIA_TYPES.items()}
    return next((by_kind[kind] for kind in kinds if kind in by_kind), ResultFormat.CSV)

"""The review queue: one product at a time, the most useful first, and what a reviewer says of it.

A correction is a feedback like any other: it counts when the model is watched, and is a label of the next training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from sqlalchemy import Connection
from starlette.datastructures import FormData

from aisle.console.asking import AForm, AReviewer, TheDesk, page, part, text_of, wants_part
from aisle.console.desk import Desk
from aisle.console.tables import PAGE, as_csv, before_of, name_of, one_page
from aisle.store import photos, reviews
from aisle.store.engine import reading, writing
from aisle.store.predictions import PredictionRecord
from aisle.store.reviews import Corrected, Pace
from aisle.web.problems import Problem, Refusal

AN_HOUR = timedelta(hours=1)
FEW_TYPES = 300
"""So many can be chosen from a list without a script."""
COLUMNS = (
    "at", "reviewer", "prediction_id", "product_key", "designation", "description", "predicted", "confidence",
    "type", "agrees", "model_version",
)  # fmt: skip
BEGINNING, PIECE = 2_000, 5_000
"""So many characters of a description are shown at first, and at each look at more; a hostile one takes 12 bytes."""
PRIVATE = "private, no-cache"
"""A browser keeps a photo, and asks each time whether it may show it still."""

router = APIRouter(prefix="/review")


@dataclass(frozen=True)
class Shown:
    """What the page shows: a product, or none where none waits, and how far the reviewer is."""

    record: PredictionRecord | None
    has_photo: bool
    waiting: int
    pace: Pace
    last: Corrected | None


@router.get("")
async def ask(request: Request, who: AReviewer, desk: TheDesk) -> Response:
    """What one looks at already, on a page that is loaded again; else the next one."""
    record = await run_in_threadpool(_next, desk, who.name, goes_on=True)
    return await _show(request, who.name, desk, record)


@router.get("/types.json")
async def types(_: AReviewer, desk: TheDesk) -> Response:
    return JSONResponse([[one.code, one.label] for one in desk.types().values()])


@router.post("/say")
async def say(request: Request, who: AReviewer, form: AForm, desk: TheDesk) -> Response:
    """The right type of a product, or not now; then the next one."""
    prediction_id = _id_of(form, "id")
    if text_of(form, "skip"):
        await run_in_threadpool(_put_off, desk, prediction_id, who.name)
    else:
        # Whoever searched may have sent a name with its code: "2583 · Piscine et accessoires".
        code = text_of(form, "type").partition(" · ")[0].strip()
        await desk.correct(prediction_id, code, request, who.identity)
    record = await run_in_threadpool(_next, desk, who.name)
    return await _show(request, who.name, desk, record)


@router.post("/undo")
async def undo(request: Request, who: AReviewer, form: AForm, desk: TheDesk) -> Response:
    """Take back one's own last word on a product, and look at it again instead of the one that was shown."""
    prediction_id = _id_of(form, "id")
    if not await run_in_threadpool(_take_back, desk, prediction_id, who.name, _id_of(form, "shown")):
        raise Refusal(Problem.NO_SUCH_PREDICTION, prediction_id=prediction_id[:32])
    record = await run_in_threadpool(_waiting, desk, prediction_id)
    if record is None:  # a word on a product that never waited, said on another page
        record = await run_in_threadpool(_next, desk, who.name, goes_on=True)
    return await _show(request, who.name, desk, record)


@router.get("/text/{prediction_id}")
async def text(
    request: Request, _: AReviewer, desk: TheDesk, prediction_id: Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
) -> Response:
    """More of a long description, piece by piece; a script puts the piece where the link to it was."""
    record = await run_in_threadpool(_waiting, desk, prediction_id)
    begins = before_of(request.query_params.get("from", "")) or 0
    if record is None or begins >= len(record.description or ""):
        raise Refusal(Problem.NOT_FOUND)
    found: dict[str, Any] = {"record": record, "begins": begins, "length": PIECE}
    if wants_part(request):
        return part(request, "parts/text.html", **found)
    return page(request, "text.html", place="review", **found)


@router.get("/image/{prediction_id}")
async def photo(
    request: Request, _: AReviewer, desk: TheDesk, prediction_id: Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
) -> Response:
    """Of a product in the queue, and for a while after that. It never changes, so that its name tells all of it."""
    tag = f'"{prediction_id}"'
    headers = {"cache-control": PRIVATE, "etag": tag}
    jpeg = await run_in_threadpool(_photo, desk, prediction_id)
    if jpeg is None:
        raise Refusal(Problem.NOT_FOUND)
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(jpeg, media_type="image/jpeg", headers=headers)


@router.get("/corrections")
async def corrections(request: Request, _: AReviewer, desk: TheDesk, before: str = "", who: str = "") -> Response:
    found = await run_in_threadpool(_corrections, desk, before_of(before), name_of(who))
    return page(request, "corrections.html", place="review", **found, wanted=who, types=desk.types())


@router.get("/corrections.csv")
async def export(_: AReviewer, desk: TheDesk, who: str = "") -> Response:
    def rows(connection: Connection) -> Iterator[Sequence[Any]]:
        for one in reviews.corrections(connection, user_name=name_of(who)):
            yield (
                one.created_at.isoformat(), one.user_name, one.prediction_id, one.product_key or "", one.designation,
                one.description, one.predicted, one.confidence, one.type_code,
                int(one.type_code == one.predicted), one.model_version,
            )  # fmt: skip

    return as_csv(desk.engine, "corrections.csv", COLUMNS, rows)


async def _show(request: Request, name: str, desk: Desk, record: PredictionRecord | None) -> Response:
    shown = await run_in_threadpool(_shown, desk, name, record)
    found: dict[str, Any] = {
        "shown": shown,
        "types": desk.types(),
        "few": FEW_TYPES,
        "length": BEGINNING,
        "begins": 0,
    }
    if wants_part(request):
        return part(request, "parts/product.html", **found)
    return page(request, "review.html", place="review", **found)


def _id_of(form: FormData, name: str) -> str:
    """Of a prediction, if it is one; PostgreSQL looks up every character but this one."""
    return text_of(form, name).replace("\0", "")


def _shown(desk: Desk, name: str, record: PredictionRecord | None) -> Shown:
    with reading(desk.engine) as connection:
        return Shown(
            record,
            record is not None and bool(photos.there(connection, [record.id])),
            reviews.count_waiting(connection),
            reviews.pace(connection, name, since=desk.clock() - AN_HOUR),
            next(iter(reviews.corrections(connection, user_name=name, count=1)), None),
        )


def _next(desk: Desk, name: str, *, goes_on: bool = False) -> PredictionRecord | None:
    """What is theirs to look at from now on: nobody else has it, and they have it on no other page, unless they go on
    with what they have."""
    while True:
        now = desk.clock()
        with reading(desk.engine) as connection:
            record = reviews.held(connection, name, at=now) if goes_on else None
            record = record or reviews.next_one(connection, at=now)
            is_old = record is not None and reviews.is_known(connection, record.input_hash)
        if record is None:
            return None
        with writing(desk.engine) as connection:
            if is_old:  # the same product was sent again after somebody had looked at it
                reviews.looked_at(connection, record.id)
            elif reviews.hold(connection, record.id, name, at=now):
                return record


def _waiting(desk: Desk, prediction_id: str) -> PredictionRecord | None:
    with reading(desk.engine) as connection:
        return reviews.waiting(connection, prediction_id)


def _photo(desk: Desk, prediction_id: str) -> bytes | None:
    with reading(desk.engine) as connection:
        return photos.find(connection, prediction_id)


def _put_off(desk: Desk, prediction_id: str, name: str) -> None:
    with writing(desk.engine) as connection:
        reviews.put_off(connection, prediction_id)
        reviews.release(connection, prediction_id, name)


def _take_back(desk: Desk, prediction_id: str, name: str, shown: str) -> bool:
    with writing(desk.engine) as connection:
        if not reviews.take_back(connection, prediction_id, name):
            return False
        reviews.release(connection, shown, name)
        reviews.hold(connection, prediction_id, name, at=desk.clock())
        return True


def _corrections(desk: Desk, before: int | None, who: str) -> dict[str, Any]:
    """A page of them, where others are, and whose photo is there still."""
    newer: int | str | None = None
    with reading(desk.engine) as connection:
        rows, more = one_page(reviews.corrections(connection, before=before, count=PAGE + 1, user_name=who))
        if before is not None:
            newer = reviews.newer_corrections(connection, before=before, count=PAGE, user_name=who) or ""
        seen = photos.there(connection, [one.prediction_id for one in rows])
    return {"rows": rows, "newer": newer, "older": rows[-1].id if more else None, "photos": seen}

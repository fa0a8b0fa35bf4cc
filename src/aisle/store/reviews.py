"""The review queue: predictions that a person should look at, the most useful first.

What the model is unsure of teaches it most (B. Settles, Active Learning Literature Survey, 2009), but ten products
that it confuses in the same way teach little more than one. So each prediction has a `doubt`, by the margin between
its best two types, and a lane, by which two these are. The next one is the most doubtful of the lane where doubt is
largest for how often people looked there of late.

However many wait, that reads one entry of an index for each lane.

What somebody looks at is held for them, however often that product was sent: nobody else gets it until they have said
something, put it off, or let `HELD` go by.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import sqrt
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, delete, exists, func, literal, or_, select, update

from aisle.store.engine import insert_new
from aisle.store.predictions import Label, PredictionRecord
from aisle.store.schema import feedback, predictions, reviews

LANES = 256
RECENT = 500
"""So many words of people tell which lanes they looked at."""
PACE = 200
MOST_IN_AN_HOUR = 3600
HELD = timedelta(minutes=5)
"""Long enough for a product that takes thought; so long, others do without one whose reviewer has left."""
_REVIEW = "review"


def lane_of(top: Sequence[Mapping[str, Any]]) -> int:
    """The same for products between the same two types, whichever is the first."""
    return zlib.crc32("\0".join(sorted(str(one["code"]) for one in top[:2])).encode()) % LANES


def doubt_of(top: Sequence[Mapping[str, Any]]) -> float:
    """1 where the best two types are equally likely, 0 where the model is sure."""
    best, second = ([*(float(one["confidence"]) for one in top[:2]), 0.0, 0.0])[:2]
    return 1.0 - (best - second)


def enqueue(connection: Connection, records: Sequence[PredictionRecord]) -> None:
    """Let those wait that were decided so and do not yet. They have to be there."""
    rows = [
        {"prediction_id": one.id, "lane": lane_of(one.top), "doubt": doubt_of(one.top)}
        for one in records
        if one.decision == _REVIEW
    ]
    insert_new(connection, reviews, rows)


def looked_at(connection: Connection, prediction_id: str) -> None:
    """Nobody need look at this product any more, however often it was sent."""
    is_same = _locked(connection, prediction_id)
    connection.execute(update(reviews).where(is_same).values(doubt=None, held_by=None, held_until=None))


def put_off(connection: Connection, prediction_id: str) -> None:
    """Others first: it comes again when they have been looked at."""
    waits = _locked(connection, prediction_id) & reviews.c.doubt.is_not(None)
    connection.execute(update(reviews).where(waits).values(doubt=reviews.c.doubt / 2))


def hold(connection: Connection, prediction_id: str, user_name: str, *, at: datetime) -> bool:
    """Whether a product waits and is theirs alone from now on; no, where somebody else has it or has spoken."""
    waits = _locked(connection, prediction_id) & reviews.c.doubt.is_not(None)
    is_mine = reviews.c.held_by == user_name
    take = update(reviews).where(waits, or_(_is_free(at), is_mine))
    if not connection.execute(take.values(held_by=user_name, held_until=at + HELD)).rowcount:
        return False
    of_another = (reviews.c.held_by != user_name, reviews.c.held_until > at)
    held = select(reviews.c.held_by, reviews.c.held_until).where(waits, *of_another).limit(1)
    other = connection.execute(held).one_or_none()
    if other is not None:  # it was sent again while they look at it: all of it is theirs
        connection.execute(update(reviews).where(waits, is_mine).values(**other._mapping))
    return other is None


def release(connection: Connection, prediction_id: str, user_name: str) -> None:
    """Somebody does not look at this product any more."""
    is_mine = _locked(connection, prediction_id) & (reviews.c.held_by == user_name)
    connection.execute(update(reviews).where(is_mine).values(held_by=None, held_until=None))


def held(connection: Connection, user_name: str, *, at: datetime) -> PredictionRecord | None:
    """What somebody looks at; where that is several, the one that they were given last."""
    is_mine = (reviews.c.held_by == user_name, reviews.c.held_until > at, reviews.c.doubt.is_not(None))
    order = (reviews.c.held_until.desc(), reviews.c.doubt.desc())
    return _one(connection, _records().where(*is_mine).order_by(*order).limit(1))


def _locked(connection: Connection, prediction_id: str) -> ColumnElement[bool]:
    """Tells whether a row is of the same product, however often it was sent. Whoever else would change these rows
    waits for the end of the transaction: taken in the same order, so that no two wait for each other."""
    same = predictions.alias()
    products = (
        select(same.c.id)
        .join(predictions, predictions.c.input_hash == same.c.input_hash)
        .where(predictions.c.id == prediction_id)
    )
    is_same = reviews.c.prediction_id.in_(products)
    rows = select(reviews.c.prediction_id).where(is_same).order_by(reviews.c.prediction_id)
    connection.execute(rows.with_for_update()).all()  # of SQLite, which knows no such lock, there is one writer
    return is_same


def _is_free(at: datetime) -> ColumnElement[bool]:
    return or_(reviews.c.held_until.is_(None), reviews.c.held_until <= at)


def take_back(connection: Connection, prediction_id: str, user_name: str) -> bool:
    """Undo somebody's last word on a prediction, which waits again unless others spoke; whether there was one."""
    of_theirs = (feedback.c.prediction_id == prediction_id, feedback.c.user_name == user_name)
    last = connection.execute(select(func.max(feedback.c.id)).where(*of_theirs)).scalar_one()
    if last is None:
        return False
    connection.execute(delete(feedback).where(feedback.c.id == last))
    others = connection.execute(select(exists().where(feedback.c.prediction_id == prediction_id))).scalar_one()
    top = connection.execute(select(predictions.c.top).where(predictions.c.id == prediction_id)).scalar_one()
    if not others:
        mine = reviews.c.prediction_id == prediction_id
        connection.execute(update(reviews).where(mine).values(doubt=doubt_of(top)))
    return True


def count_waiting(connection: Connection) -> int:
    query = select(func.count()).select_from(reviews).where(reviews.c.doubt.is_not(None))
    return connection.execute(query).scalar_one()


def next_one(connection: Connection, *, at: datetime) -> PredictionRecord | None:
    """The most useful one to look at now, of those that nobody looks at."""
    looked = _looked_at_of_late(connection)
    doubts = connection.execute(_most_doubtful(at)).all()
    if not doubts:
        return None
    best = min(doubts, key=lambda one: (-one.doubt / sqrt(1 + looked[one.lane]), one.lane))
    waits = (reviews.c.lane == best.lane, reviews.c.doubt.is_not(None), _is_free(at))
    return _one(connection, _records().where(*waits).order_by(reviews.c.doubt.desc()).limit(1))


def is_known(connection: Connection, input_hash: str) -> bool:
    """Whether somebody gave this product a type, whenever it was sent."""
    said = (
        select(feedback.c.id)
        .join(predictions, predictions.c.id == feedback.c.prediction_id)
        .where(predictions.c.input_hash == input_hash)
    )
    return bool(connection.execute(select(said.exists())).scalar_one())


def waiting(connection: Connection, prediction_id: str) -> PredictionRecord | None:
    """One prediction of the queue, whether somebody has looked at it or not."""
    return _one(connection, _records().where(reviews.c.prediction_id == prediction_id))


def _looked_at_of_late(connection: Connection) -> Counter[int]:
    recent = select(feedback.c.prediction_id).order_by(feedback.c.id.desc()).limit(RECENT).subquery()
    query = select(reviews.c.lane).join(recent, recent.c.prediction_id == reviews.c.prediction_id)
    return Counter(connection.execute(query).scalars())


def _most_doubtful(at: datetime) -> Select[Any]:
    """The largest doubt of each lane: one step into the index for each, not one for each prediction."""
    lanes = select(literal(0).label("lane")).cte("lanes", recursive=True)
    lanes = lanes.union_all(select(lanes.c.lane + 1).where(lanes.c.lane < LANES - 1))
    largest = (
        select(reviews.c.doubt)
        .where(reviews.c.lane == lanes.c.lane, reviews.c.doubt.is_not(None), _is_free(at))
        .order_by(reviews.c.doubt.desc())
        .limit(1)
        .scalar_subquery()
    )
    found = select(lanes.c.lane, largest.label("doubt")).subquery()
    return select(found).where(found.c.doubt.is_not(None))


def _records() -> Select[Any]:
    return select(predictions).join(reviews, reviews.c.prediction_id == predictions.c.id)


def _one(connection: Connection, query: Select[Any]) -> PredictionRecord | None:
    row = connection.execute(query).one_or_none()
    return None if row is None else PredictionRecord(**row._mapping)


@dataclass(frozen=True)
class Pace:
    """Of one reviewer: words in the last hour, and, of the last `words`, how many the model agreed with."""

    in_an_hour: int
    words: int
    agreed: int


def pace(connection: Connection, user_name: str, *, since: datetime) -> Pace:
    """`since`: an hour ago. Who says more than `PACE` words in an hour has those counted, too."""
    query = (
        select(feedback.c.created_at, feedback.c.type_code == predictions.c.predicted)
        .join(predictions, predictions.c.id == feedback.c.prediction_id)
        .where(feedback.c.user_name == user_name)
        .order_by(feedback.c.id.desc())
        .limit(PACE)
    )
    last = connection.execute(query).all()
    in_an_hour = sum(at >= since for at, _ in last)
    if in_an_hour == PACE:
        theirs = select(feedback.c.created_at).where(feedback.c.user_name == user_name)
        newest = theirs.order_by(feedback.c.id.desc()).limit(MOST_IN_AN_HOUR).subquery()
        of_an_hour = select(func.count()).select_from(newest).where(newest.c.created_at >= since)
        in_an_hour = connection.execute(of_an_hour).scalar_one()
    return Pace(in_an_hour, len(last), sum(bool(agrees) for _, agrees in last))


def recent_labels(connection: Connection, version: str, count: int, *, since: datetime) -> list[Label]:
    """What one version said since then of the products in the last `count` words of people: the last word on each.

    However many words there are, no more than these are read.
    """
    recent = select(feedback).order_by(feedback.c.id.desc()).limit(count).subquery()
    of = predictions.c
    query = (
        select(of.id, of.created_at, of.predicted, of.confidence, of.decision, recent.c.type_code)
        .join(predictions, of.id == recent.c.prediction_id)
        .where(of.model_version == version, of.created_at >= since)
        .order_by(recent.c.id)
    )
    return [*{prediction_id: Label(*label) for prediction_id, *label in connection.execute(query)}.values()]


@dataclass(frozen=True)
class Corrected:
    """One word of a person on a prediction, and what had been predicted."""

    id: int
    created_at: datetime
    user_name: str
    type_code: str
    prediction_id: str
    product_key: str | None
    designation: str
    description: str
    predicted: str
    confidence: float
    model_version: str


def corrections(
    connection: Connection, *, before: int | None = None, count: int | None = None, user_name: str = ""
) -> Iterator[Corrected]:
    """What people said, the newest first; `before` an id, so that each page costs the same."""
    of = predictions.c
    query = (
        select(
            *(feedback.c[name] for name in ("id", "created_at", "user_name", "type_code", "prediction_id")),
            of.product_key, of.designation, of.description, of.predicted, of.confidence, of.model_version,
        )
        .join(predictions, of.id == feedback.c.prediction_id)
        .order_by(feedback.c.id.desc())
    )  # fmt: skip
    if before is not None:
        query = query.where(feedback.c.id < before)
    if user_name:
        query = query.where(feedback.c.user_name == user_name)
    if count is not None:
        query = query.limit(count)
    for row in connection.execute(query.execution_options(yield_per=1000)):
        yield Corrected(**row._mapping)


def newer_corrections(connection: Connection, *, before: int, count: int, user_name: str = "") -> int | None:
    """`before` of the page of `count` that comes ahead of the one `before` this id; None: it is the first."""
    query = select(feedback.c.id).join(predictions, predictions.c.id == feedback.c.prediction_id)
    query = query.where(feedback.c.id >= before).order_by(feedback.c.id)
    if user_name:
        query = query.where(feedback.c.user_name == user_name)
    return connection.execute(query.offset(count).limit(1)).scalar()

"""The record of predictions and what people said about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from aisle.store.engine import insert_new
from aisle.store.schema import feedback, predictions


@dataclass(frozen=True)
class PredictionRecord:
    """One answer. `top` is a list of `{"code", "label", "confidence"}`, the best first; hashes are SHA-256.

    `product_key` is what the shop calls the product, `seconds` what the model took, waiting included, and `arm`
    (champion, challenger) who answered in the experiment `experiment_id`.
    """

    id: str
    created_at: datetime
    user_name: str
    input_hash: str
    designation: str
    description: str
    image_hash: str | None
    predicted: str
    confidence: float
    top: list[dict[str, Any]]
    decision: str
    model_version: str
    product_key: str | None = None
    image_facts: dict[str, Any] | None = None
    seconds: float | None = None
    experiment_id: int | None = None
    arm: str | None = None


@dataclass(frozen=True)
class Feedback:
    """The right type of an earlier prediction, and who said so."""

    prediction_id: str
    created_at: datetime
    user_name: str
    type_code: str


def add(connection: Connection, records: Sequence[PredictionRecord]) -> None:
    """Store many at once: a writer beside the service collects them, so that no answer waits for the disk.

    One that is there already stays as it is: whoever was killed, or cut off, cannot know what the database took.
    """
    insert_new(connection, predictions, [vars(record) for record in records])


def find(connection: Connection, prediction_id: str) -> PredictionRecord | None:
    row = connection.execute(select(predictions).where(predictions.c.id == prediction_id)).one_or_none()
    return None if row is None else PredictionRecord(**row._mapping)


def delete_older(connection: Connection, *, than: datetime) -> int:
    """Delete predictions, and the feedback on them, made before a moment; how many those were."""
    return connection.execute(delete(predictions).where(predictions.c.created_at < than)).rowcount


def add_feedback(connection: Connection, given: Feedback) -> None:
    """Every word is kept: the last one counts. The prediction has to be there."""
    connection.execute(insert(feedback).values(**vars(given)))


def feedback_on(connection: Connection, prediction_id: str) -> list[Feedback]:
    """What was said about a prediction, the oldest first."""
    columns = (feedback.c.prediction_id, feedback.c.created_at, feedback.c.user_name, feedback.c.type_code)
    query = select(*columns).where(feedback.c.prediction_id == prediction_id).order_by(feedback.c.id)
    return [Feedback(*row) for row in connection.execute(query)]


@dataclass(frozen=True)
class Word:
    """What one person said of one product: its texts, and the type they hold to be right."""

    id: int
    prediction_id: str
    input_hash: str
    product_key: str | None
    designation: str
    description: str
    user_name: str
    type_code: str


def words_said(connection: Connection, *, after: int = 0) -> Iterator[Word]:
    """All feedback with a higher id than `after`, the oldest first, with the products that it is about."""
    of = predictions.c
    columns = (of.id, of.input_hash, of.product_key, of.designation, of.description)
    query = (
        select(feedback.c.id, *columns, feedback.c.user_name, feedback.c.type_code)
        .join(predictions, of.id == feedback.c.prediction_id)
        .where(feedback.c.id > after)
        .order_by(feedback.c.id)
    )
    for row in connection.execute(query.execution_options(yield_per=1000)):
        yield Word(*row)


def count_labelled(connection: Connection, *, after: int = 0) -> int:
    """How many products people gave a type, in feedback with a higher id than `after`."""
    query = (
        select(func.count(predictions.c.input_hash.distinct()))
        .join(feedback, predictions.c.id == feedback.c.prediction_id)
        .where(feedback.c.id > after)
    )
    return connection.execute(query).scalar_one()


def latest_products(
    connection: Connection, version: str, count: int, *, since: datetime | None = None
) -> list[PredictionRecord]:
    """What one version of a model said of the last `count` different products, the newest first.

    A product that was sent several times counts once: the one of the same content, or that the shop calls the same.
    """
    query = select(predictions).where(predictions.c.model_version == version)
    if since is not None:
        query = query.where(predictions.c.created_at >= since)
    query = query.order_by(predictions.c.created_at.desc(), predictions.c.id)
    found: list[PredictionRecord] = []
    seen: set[str] = set()
    with connection.execute(query.execution_options(yield_per=1000)) as rows:
        for row in rows:
            record = PredictionRecord(**row._mapping)
            names = {f"content {record.input_hash}", f"key {record.product_key or record.input_hash}"}
            if not names & seen:
                found.append(record)
            seen |= names
            if len(found) == count:
                break
    return found


@dataclass(frozen=True)
class Label:
    """What a model said of one product, and what people said last."""

    created_at: datetime
    predicted: str
    confidence: float
    decision: str
    type_code: str


def latest_labels(connection: Connection, version: str, count: int, *, since: datetime | None = None) -> list[Label]:
    """The last `count` predictions of a version, made since then, that people gave a type: the last word on each."""
    last = select(func.max(feedback.c.id).label("id")).group_by(feedback.c.prediction_id).subquery()
    of = predictions.c
    query = (
        select(of.created_at, of.predicted, of.confidence, of.decision, feedback.c.type_code)
        .join(predictions, of.id == feedback.c.prediction_id)
        .join(last, last.c.id == feedback.c.id)
        .where(of.model_version == version)
        .order_by(of.created_at.desc(), of.id)
        .limit(count)
    )
    if since is not None:
        query = query.where(of.created_at >= since)
    return [Label(*row) for row in connection.execute(query)]


@dataclass(frozen=True)
class Decided:
    """How many predictions had a decision, and their mean confidence."""

    count: int
    confidence: float


def decided(connection: Connection, version: str, *, since: datetime) -> dict[str, Decided]:
    """What a version decided of the products since a moment, by decision.

    Each decision is one range of an index: to group as they come takes five times as long.
    """
    of = predictions.c
    is_of_version = of.model_version == version
    first = select(func.min(of.decision)).where(is_of_version)
    counted = select(func.count(), func.avg(of.confidence)).where(is_of_version, of.created_at >= since)
    found = {}
    decision = connection.execute(first).scalar()
    while decision is not None:
        count, mean = connection.execute(counted.where(of.decision == decision)).one()
        if count:
            found[decision] = Decided(count, float(mean))
        decision = connection.execute(first.where(of.decision > decision)).scalar()
    return found

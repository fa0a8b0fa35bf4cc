"""Small photos of the products that people should look at, for as long as they do.

A photo goes with its prediction, when its product has been looked at, or when newer ones need its room.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, delete, exists, func, insert, select

from aisle.store.schema import feedback, photos, reviews


@dataclass(frozen=True)
class Photo:
    """Of the product of a prediction, made at a moment."""

    prediction_id: str
    created_at: datetime
    jpeg: bytes = field(repr=False)


def add(connection: Connection, taken: Sequence[Photo]) -> None:
    """Keep those whose products wait; of the others nobody needs one."""
    if not taken:
        return
    ids = [one.prediction_id for one in taken]
    wait = select(reviews.c.prediction_id).where(reviews.c.prediction_id.in_(ids), reviews.c.doubt.is_not(None))
    wanted = {*connection.execute(wait).scalars()} - there(connection, ids)
    rows = [{**vars(one), "bytes": len(one.jpeg)} for one in taken if one.prediction_id in wanted]
    if rows:
        connection.execute(insert(photos), rows)


def find(connection: Connection, prediction_id: str) -> bytes | None:
    return connection.execute(select(photos.c.jpeg).where(photos.c.prediction_id == prediction_id)).scalar()


def there(connection: Connection, prediction_ids: Iterable[str]) -> set[str]:
    """Those of these predictions that have a photo."""
    query = select(photos.c.prediction_id).where(photos.c.prediction_id.in_(list(prediction_ids)))
    return {*connection.execute(query).scalars()}


def trim(connection: Connection, most_bytes: int) -> int:
    """Delete the oldest until the others have no more bytes than that; how many those were."""
    newest_first = func.sum(photos.c.bytes).over(order_by=(photos.c.created_at.desc(), photos.c.prediction_id))
    with_newer = select(photos.c.prediction_id, newest_first.label("total")).subquery()
    too_old = select(with_newer.c.prediction_id).where(with_newer.c.total > most_bytes)
    return connection.execute(delete(photos).where(photos.c.prediction_id.in_(too_old))).rowcount


def delete_looked_at(connection: Connection, *, before: datetime) -> int:
    """Delete those of products about which the last word was said before a moment; how many those were."""
    said_since = exists().where(feedback.c.prediction_id == photos.c.prediction_id, feedback.c.created_at >= before)
    over = (
        select(photos.c.prediction_id)
        .join(reviews, reviews.c.prediction_id == photos.c.prediction_id)
        .where(reviews.c.doubt.is_(None), ~said_since)
    )
    return connection.execute(delete(photos).where(photos.c.prediction_id.in_(over))).rowcount

"""Retrainings, one at a time, each with the stage that it is in; and what asked for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from aisle.errors import CheckFailed, InputError
from aisle.store.schema import retraining_requests, retrainings


class Cause(StrEnum):
    HAND = "hand"
    SCHEDULE = "schedule"
    DRIFT = "drift"
    CORRECTIONS = "corrections"


class Stage(StrEnum):
    """Where a retraining is; the last six are ends."""

    COLLECT = "collect"
    VERSION = "version"
    TRAIN = "train"
    GATE = "gate"
    REVIEW = "review"  # waits for an administrator
    SHADOW = "shadow"
    CANARY = "canary"
    PROMOTE = "promote"
    CHANGES = "changes"
    DONE = "done"
    NOTHING_NEW = "nothing new"
    REFUSED = "refused"  # by the gate, or by an administrator
    STOPPED = "stopped"  # the challenger was worse where it answered, or somebody ended the experiment
    FAILED = "failed"
    UNDONE = "undone"


ENDS = frozenset({Stage.DONE, Stage.NOTHING_NEW, Stage.REFUSED, Stage.STOPPED, Stage.FAILED, Stage.UNDONE})


@dataclass(frozen=True, slots=True)
class Retraining:
    """`detail` is what each stage left, for the next one and for people: plain JSON."""

    id: int
    cause: Cause
    asked_by: str
    stage: Stage
    started_at: datetime
    updated_at: datetime
    ended_at: datetime | None
    detail: Mapping[str, Any]

    @property
    def is_over(self) -> bool:
        return self.stage in ENDS


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody, or an alert, asks for a retraining."""

    id: int
    at: datetime
    cause: Cause
    asked_by: str
    reason: str
    answered_at: datetime | None
    answer: str | None


def begin(
    connection: Connection, cause: Cause, *, asked_by: str, at: datetime, detail: Mapping[str, Any]
) -> Retraining:
    """Raises CheckFailed where one is under way."""
    values = {
        "cause": cause.value, "asked_by": asked_by, "stage": Stage.COLLECT.value, "started_at": at, "updated_at": at,
        "detail": dict(detail), "active": 1,
    }  # fmt: skip
    try:
        with connection.begin_nested():
            begun = insert(retrainings).values(**values).returning(retrainings.c.id)
            number = connection.execute(begun).scalar_one()
    except IntegrityError:
        raise CheckFailed(
            "a retraining is under way", hint="`aisle retrain status` shows it, `aisle retrain undo` ends it."
        ) from None
    return get(connection, number)


def get(connection: Connection, number: int) -> Retraining:
    """Raises InputError where there is none of this number."""
    row = connection.execute(select(retrainings).where(retrainings.c.id == number)).one_or_none()
    if row is None:
        raise InputError(f"there is no retraining {number}")
    return _retraining(row)


def active(connection: Connection) -> Retraining | None:
    """The one under way."""
    row = connection.execute(select(retrainings).where(retrainings.c.active == 1)).one_or_none()
    return None if row is None else _retraining(row)


def latest(connection: Connection, count: int = 1) -> list[Retraining]:
    """The newest first."""
    query = select(retrainings).order_by(retrainings.c.id.desc()).limit(count)
    return [_retraining(row) for row in connection.execute(query)]


def move(
    connection: Connection, moved: Retraining, stage: Stage, *, at: datetime, detail: Mapping[str, Any]
) -> Retraining:
    """To another stage, with this detail. Raises CheckFailed where it is not any more in the stage that it was in."""
    is_over = stage in ENDS
    done = connection.execute(
        update(retrainings)
        .where(retrainings.c.id == moved.id, retrainings.c.stage == moved.stage.value)
        .values(
            stage=stage.value,
            updated_at=at,
            detail=dict(detail),
            ended_at=at if is_over else None,
            active=None if is_over else 1,
        )
    )
    if done.rowcount != 1:
        raise CheckFailed(
            f"retraining {moved.id} is not in the stage {moved.stage} any more",
            hint="Somebody else moved it; `aisle retrain status` shows where it is.",
        )
    return get(connection, moved.id)


def ask(connection: Connection, cause: Cause, *, asked_by: str, reason: str, at: datetime) -> bool:
    """Ask for a retraining; whether that is new: an alert is sent again and again until somebody answers."""
    waiting = select(retraining_requests.c.id).where(
        retraining_requests.c.cause == cause.value,
        retraining_requests.c.reason == reason,
        retraining_requests.c.answered_at.is_(None),
    )
    if connection.execute(waiting.limit(1)).one_or_none() is not None:
        return False
    values = {"at": at, "cause": cause.value, "asked_by": asked_by, "reason": reason}
    connection.execute(insert(retraining_requests).values(**values))
    return True


def requests(connection: Connection) -> list[Request]:
    """What nobody has answered yet, the oldest first."""
    query = select(retraining_requests).where(retraining_requests.c.answered_at.is_(None))
    return [_request(row) for row in connection.execute(query.order_by(retraining_requests.c.id))]


def answer(connection: Connection, answered: Sequence[Request], text: str, *, at: datetime) -> None:
    connection.execute(
        update(retraining_requests)
        .where(retraining_requests.c.id.in_([one.id for one in answered]))
        .values(answered_at=at, answer=text)
    )


def _retraining(row: Row[Any]) -> Retraining:
    return Retraining(
        row.id,
        Cause(row.cause),
        row.asked_by,
        Stage(row.stage),
        row.started_at,
        row.updated_at,
        row.ended_at,
        row.detail,
    )


def _request(row: Row[Any]) -> Request:
    return Request(row.id, row.at, Cause(row.cause), row.asked_by, row.reason, row.answered_at, row.answer)

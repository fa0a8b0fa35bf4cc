"""Experiments: a challenger beside the champion. At most one runs; every start, change and end is in the audit trail.

What the challenger said of a product that it was only shown is a `Shadowed`, beside the record of the prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from aisle.errors import CheckFailed, InputError
from aisle.store import audit
from aisle.store.schema import experiments, shadow_predictions

RUNNING = 1


class Kind(StrEnum):
    SHADOW = "shadow"  # the challenger is shown what the champion answered
    CANARY = "canary"  # it answers for a share of the products
    AB = "ab"  # it answers for a share of the products, or of the users


class Arm(StrEnum):
    CHAMPION = "champion"
    CHALLENGER = "challenger"


class Outcome(StrEnum):
    WORSE = "worse"
    ENOUGH = "enough"  # seen enough of it, and it was not worse
    STOPPED = "stopped"  # by hand
    SUPERSEDED = "superseded"  # there is another champion


@dataclass(frozen=True)
class Experiment:
    """`champion` and `challenger` are versions; `share` of the products, in (0, 1], is the challenger's.

    While `outcome` is None it runs. `findings` are those of the last look, at `looked_at`.
    """

    id: int
    kind: Kind
    champion: str
    challenger: str
    share: float
    rules: Mapping[str, Any]
    started_by: str
    started_at: datetime
    ended_at: datetime | None
    outcome: Outcome | None
    reason: str | None
    findings: Mapping[str, Any] | None
    looked_at: datetime | None


@dataclass(frozen=True)
class Shadowed:
    """What the challenger said of a predicted product; `seconds` are of processor time. With an `error`, nothing."""

    prediction_id: str
    experiment_id: int
    input_hash: str
    predicted: str | None
    confidence: float | None
    agrees: bool | None
    seconds: float | None
    champion_seconds: float
    error: str | None = None


def start(
    connection: Connection,
    *,
    kind: Kind,
    champion: str,
    challenger: str,
    share: float,
    rules: Mapping[str, Any],
    who: str,
    at: datetime,
) -> Experiment:
    """Raises CheckFailed, which names it, where another one runs."""
    values = {"kind": kind, "champion": champion, "challenger": challenger, "share": share, "rules": dict(rules)}
    row = {**values, "started_by": who, "started_at": at, "looked_at": at, "running": RUNNING}
    try:
        with connection.begin_nested():
            inserted = insert(experiments).values(row).returning(experiments.c.id)
            number = connection.execute(inserted).scalar_one()
    except IntegrityError:
        refuse_a_second(connection)
        raise
    audit.record(connection, who=who, what="experiment.start", subject=str(number), at=at, after=values)
    return get(connection, number)


def refuse_a_second(connection: Connection) -> None:
    """Raises CheckFailed, which names it, where one runs."""
    if (other := current(connection)) is not None:
        raise CheckFailed(
            f"experiment {other.id} ({other.kind} of {other.challenger}) is running",
            hint="`aisle experiment stop` ends it.",
        )


def current(connection: Connection) -> Experiment | None:
    """The one that runs."""
    row = connection.execute(select(experiments).where(experiments.c.running == RUNNING)).one_or_none()
    return None if row is None else _experiment(row)


def get(connection: Connection, number: int) -> Experiment:
    """Raises InputError for a number that none has."""
    row = connection.execute(select(experiments).where(experiments.c.id == number)).one_or_none()
    if row is None:
        raise InputError(f"there is no experiment {number}", hint="`aisle experiment list` shows them.")
    return _experiment(row)


def latest(connection: Connection, *, count: int) -> list[Experiment]:
    """The newest first."""
    query = select(experiments).order_by(experiments.c.id.desc()).limit(count)
    return [_experiment(row) for row in connection.execute(query)]


def end(
    connection: Connection,
    number: int,
    *,
    outcome: Outcome,
    reason: str,
    who: str,
    at: datetime,
    findings: Mapping[str, Any] | None = None,
) -> bool:
    """Whether this call ended it: of several at the same time one does, and writes the entry."""
    values: dict[str, Any] = {"outcome": outcome, "reason": reason}
    row = {**values, "ended_at": at, "running": None} | ({} if findings is None else {"findings": dict(findings)})
    if not _change(connection, number, row):
        return False
    after = values | ({} if findings is None else {"findings": dict(findings)})
    audit.record(connection, who=who, what="experiment.end", subject=str(number), at=at, after=after)
    return True


def set_share(connection: Connection, number: int, share: float, *, who: str, at: datetime) -> bool:
    """Whether it still runs, and the challenger now has that share."""
    before = get(connection, number).share
    if not _change(connection, number, {"share": share}):
        return False
    audit.record(
        connection,
        who=who,
        what="experiment.share",
        subject=str(number),
        at=at,
        before={"share": before},
        after={"share": share},
    )
    return True


def claim_look(connection: Connection, number: int, *, at: datetime, last_before: datetime) -> bool:
    """Whether the caller is to look at it now: of all services one does, when the last look is old enough."""
    is_due = or_(experiments.c.looked_at.is_(None), experiments.c.looked_at <= last_before)
    return _change(connection, number, {"looked_at": at}, is_due)


def keep_findings(connection: Connection, number: int, findings: Mapping[str, Any]) -> None:
    _change(connection, number, {"findings": dict(findings)})


def claim_notice(connection: Connection, number: int) -> bool:
    """Whether the caller is the first service to notice that it ended."""
    is_new = (experiments.c.id == number) & experiments.c.running.is_(None) & experiments.c.looked_at.is_not(None)
    return connection.execute(update(experiments).where(is_new).values(looked_at=None)).rowcount == 1


def add_shadowed(connection: Connection, shadowed: Sequence[Shadowed]) -> None:
    """The predictions have to be there."""
    if shadowed:
        rows = [{**vars(one), "agrees": None if one.agrees is None else int(one.agrees)} for one in shadowed]
        connection.execute(insert(shadow_predictions), rows)


def _change(connection: Connection, number: int, values: Mapping[str, Any], *conditions: Any) -> bool:
    """Change the experiment if it runs still; whether it does."""
    is_running = (experiments.c.id == number, experiments.c.running == RUNNING)
    return connection.execute(update(experiments).where(*is_running, *conditions).values(values)).rowcount == 1


def _experiment(row: Row[Any]) -> Experiment:
    values = {name: value for name, value in row._mapping.items() if name != "running"}
    outcome = Outcome(row.outcome) if row.outcome is not None else None
    return Experiment(**{**values, "kind": Kind(row.kind), "outcome": outcome})

"""What starts a retraining, and what holds one back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from aisle.settings import Settings
from aisle.store import predictions, retrainings
from aisle.store.retrainings import Cause, Request, Retraining


@dataclass(frozen=True, slots=True)
class Due:
    """What there is to begin, and whom it answers."""

    cause: Cause
    reason: str
    requests: Sequence[Request] = ()


@dataclass(frozen=True, slots=True)
class NotDue:
    """Why nothing is begun; `requests` are turned down with it."""

    reason: str
    requests: Sequence[Request] = ()


def what_is_due(
    connection: Connection, settings: Settings, *, now: datetime, trained_at: datetime | None
) -> Due | NotDue:
    """Whether a retraining is to begin: somebody asked, drift did, people corrected enough, or the calendar says so.

    All but a person wait for the end of the cool-down and for something new to learn from. `trained_at` is when the
    champion was, for the calendar of a shop that never retrained.
    """
    asked = retrainings.requests(connection)
    by_hand = [one for one in asked if one.cause is Cause.HAND]
    if by_hand:
        return Due(Cause.HAND, by_hand[0].reason, asked)
    past = retrainings.latest(connection, 20)
    new = predictions.count_labelled(connection, after=_last_word(past))
    cause, reason = _wish(asked, settings, new, now, past, trained_at)
    if cause is None:
        return NotDue(reason)
    ended = next((one.ended_at for one in past if one.ended_at is not None), None)
    until = ended + timedelta(hours=settings.retrain_cooldown_hours) if ended else now
    if now < until:
        return NotDue(f"{reason}, but the last retraining ended at {ended:%Y-%m-%d %H:%M} UTC: not before "
                      f"{until:%Y-%m-%d %H:%M} (RETRAIN_COOLDOWN_HOURS)", asked)  # fmt: skip
    if new < settings.retrain_least_labels:
        return NotDue(f"{reason}, but people gave only {new} products a type since the last retraining, "
                      f"{settings.retrain_least_labels} are the least (RETRAIN_LEAST_LABELS)", asked)  # fmt: skip
    return Due(cause, reason, asked)


def _wish(
    asked: Sequence[Request],
    settings: Settings,
    new: int,
    now: datetime,
    past: Sequence[Retraining],
    trained_at: datetime | None,
) -> tuple[Cause | None, str]:
    if asked:
        return asked[0].cause, asked[0].reason
    if new >= settings.retrain_min_corrections:
        return Cause.CORRECTIONS, f"people gave {new} products a type since the last retraining"
    last = next((one.started_at for one in past), trained_at)
    if settings.retrain_every_days and last is not None:
        days = (now - last) / timedelta(days=1)
        if days >= settings.retrain_every_days:
            return Cause.SCHEDULE, f"the last training was {days:.0f} days ago"
    return None, f"nothing asks for a retraining; people gave {new} products a type since the last one"


def _last_word(past: Sequence[Retraining]) -> int:
    """The last feedback that a retraining has learnt from."""
    collected = (one.detail.get("collected") for one in past)
    return max((int(one["last_word"]) for one in collected if one), default=0)

"""Batches: bulk predictions as jobs. Workers claim what is to be done, piece by piece, each under a lease.

A batch is first one piece, PLAN, which finds out of how many others it consists, and at last one piece, FINISH. What
is done is deleted: whoever deletes a piece has done it, so that every row counts once however often it was computed.
A worker that is not heard of any more loses its lease, and its piece is free again.

Low numbers go first, so that a small batch does not wait for a large one to end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, or_, select, update

from aisle.store.engine import is_sqlite
from aisle.store.schema import batch_pieces, batches

FINISH, PLAN = -2, -1
FIRST_ERRORS = 10


class BatchState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE = (BatchState.WAITING, BatchState.RUNNING)


class PieceState(StrEnum):
    """A piece that is not done is free for a worker, held by one, or put back until a later moment."""

    FREE = "free"
    HELD = "held"
    PUT_BACK = "put_back"


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is known of batches, by `state`; the `pieces` that are not done; those of them that were tried in vain."""

    batches: Mapping[BatchState, int]
    pieces: Mapping[PieceState, int]
    tried_in_vain: int


@dataclass(frozen=True, slots=True)
class NewBatch:
    """`location` is None for an upload, whose `images` are just said to be there. `fingerprint` is the request's."""

    id: str
    user_name: str
    name: str
    location: str | None
    images: str | None
    idempotency_key: str | None
    fingerprint: str
    max_rows: int


@dataclass(frozen=True, slots=True)
class Batch:
    """`rows`, `pieces`, `model_version` and `source` are None until it is planned; `errors` are among the `done`."""

    id: str
    user_name: str
    created_at: datetime
    name: str
    location: str | None
    images: str | None
    fingerprint: str
    max_rows: int
    state: BatchState
    model_version: str | None
    source: Mapping[str, Any] | None
    pieces: int | None
    rows: int | None
    done: int
    accepted: int
    errors: int
    first_errors: Sequence[Mapping[str, Any]]
    started_at: datetime | None
    ended_at: datetime | None
    problem: str | None

    @property
    def is_over(self) -> bool:
        return self.state not in ACTIVE

    def pace(self, now: datetime) -> tuple[float | None, int | None]:
        """Rows a second, and how many seconds are left; None for what nobody can tell yet, or any more."""
        if self.started_at is None or not self.done:
            return None, None
        seconds = ((self.ended_at or now) - self.started_at).total_seconds()
        rate = round(self.done / max(seconds, 1e-3), 1)
        is_known = self.rows is not None and not self.is_over and rate > 0
        return rate, round(((self.rows or 0) - self.done) / rate) if is_known else None


@dataclass(frozen=True, slots=True)
class PieceRow:
    """A piece of a table, see `batch.pieces.Piece`; `first` is the number of its first row."""

    number: int
    file: int = 0
    start: int = 0
    stop: int = 0
    first: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """A piece that a worker has for a while. `deaths`: workers that had it before and were not heard of again."""

    batch: Batch
    piece: PieceRow
    worker: str
    deaths: int
    failures: int


def add(connection: Connection, new: NewBatch, *, at: datetime) -> Batch:
    """Raises IntegrityError where the user has another batch of this `idempotency_key`."""
    values = {name: getattr(new, name) for name in NewBatch.__slots__}
    counts: dict[str, Any] = {"done": 0, "accepted": 0, "errors": 0, "first_errors": []}
    connection.execute(insert(batches).values(**values, **counts, created_at=at, state=BatchState.WAITING.value))
    _insert_pieces(connection, new.id, [PieceRow(PLAN)], at)
    return _get(connection, new.id)


def with_key(connection: Connection, user: str, key: str) -> Batch | None:
    """The user's batch that was asked for with this idempotency key."""
    return _one(connection, batches.c.user_name == user, batches.c.idempotency_key == key)


def find(connection: Connection, batch_id: str, *, user: str) -> Batch | None:
    """The batch, if it is the user's."""
    return _one(connection, batches.c.id == batch_id, batches.c.user_name == user)


def lock_user(connection: Connection, user: str) -> None:
    """Nobody else counts this user's batches, to add one, until this transaction ends. (SQLite has one writer.)"""
    if not is_sqlite(connection):
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(f"batches of {user}"))))


def active_count(connection: Connection, user: str) -> int:
    """How many batches of the user are not over yet."""
    states = [state.value for state in ACTIVE]
    wanted = select(func.count()).where(batches.c.user_name == user, batches.c.state.in_(states))
    return int(connection.execute(wanted).scalar_one())


def page(connection: Connection, user: str, *, count: int, after: tuple[datetime, str] | None = None) -> list[Batch]:
    """The user's batches, the newest first, from behind the one made then with that id."""
    wanted = select(batches).where(batches.c.user_name == user)
    if after is not None:
        at, batch_id = after
        earlier = batches.c.created_at < at
        wanted = wanted.where(or_(earlier, (batches.c.created_at == at) & (batches.c.id < batch_id)))
    ordered = wanted.order_by(batches.c.created_at.desc(), batches.c.id.desc()).limit(count)
    return [_batch(row) for row in connection.execute(ordered)]


def newer_page(connection: Connection, user: str, *, count: int, after: tuple[datetime, str]) -> Batch | None:
    """Behind which the page of `count` begins that comes ahead of the one `after` this; None: it is the first."""
    at, batch_id = after
    wanted = select(batches).where(batches.c.user_name == user)
    wanted = wanted.where(or_(batches.c.created_at > at, (batches.c.created_at == at) & (batches.c.id >= batch_id)))
    ordered = wanted.order_by(batches.c.created_at, batches.c.id).offset(count).limit(1)
    row = connection.execute(ordered).one_or_none()
    return None if row is None else _batch(row)


def cancel(connection: Connection, batch_id: str, *, at: datetime) -> None:
    """End a batch that is not over: what is under way is not waited for, and will not count."""
    _end(connection, batch_id, BatchState.CANCELLED, at)


def fail(connection: Connection, batch_id: str, problem: str, *, at: datetime) -> None:
    """End a batch that is not over, for a reason that its user is told."""
    _end(connection, batch_id, BatchState.FAILED, at, problem)


def remove(connection: Connection, batch_ids: Iterable[str]) -> None:
    """Forget batches, over or not."""
    connection.execute(delete(batches).where(batches.c.id.in_(list(batch_ids))))


def ended_before(connection: Connection, moment: datetime) -> list[str]:
    return list(connection.execute(select(batches.c.id).where(batches.c.ended_at < moment)).scalars())


def known(connection: Connection) -> set[str]:
    """The ids of all batches."""
    return set(connection.execute(select(batches.c.id)).scalars())


def is_work_there(connection: Connection, *, now: datetime) -> bool:
    """Whether `claim` would find something: asking costs no lock."""
    return (
        connection.execute(select(batch_pieces.c.number).where(batch_pieces.c.free_at <= now).limit(1)).first()
        is not None
    )


def is_anybody_at_work(connection: Connection, *, now: datetime) -> bool:
    """Whether a worker has a piece, of whichever batch."""
    held = select(batch_pieces.c.number).where(batch_pieces.c.worker.is_not(None), batch_pieces.c.free_at > now)
    return connection.execute(held.limit(1)).first() is not None


def backlog(connection: Connection, *, now: datetime) -> Backlog:
    """Of all users together."""
    states = select(batches.c.state, func.count()).group_by(batches.c.state)
    by_state = {row.state: row[1] for row in connection.execute(states)}
    is_free, is_held = batch_pieces.c.free_at <= now, batch_pieces.c.worker.is_not(None)
    counts = select(
        func.count().filter(is_free),
        func.count().filter(~is_free, is_held),
        func.count().filter(~is_free, ~is_held),
        func.count().filter(batch_pieces.c.failures > 0),
    )
    *pieces, tried_in_vain = connection.execute(counts.select_from(batch_pieces)).one()
    return Backlog(
        {state: by_state.get(state.value, 0) for state in BatchState},
        dict(zip(PieceState, pieces, strict=True)),
        tried_in_vain,
    )


def claim(connection: Connection, worker: str, *, now: datetime, lease: timedelta) -> Claim | None:
    """Take a piece that is free, until `lease` is over. Two workers never get the same."""
    wanted = (
        select(batch_pieces)
        .where(batch_pieces.c.free_at <= now)
        .order_by(batch_pieces.c.number, batch_pieces.c.batch_id)
        .limit(1)
        .with_for_update(skip_locked=True)  # which SQLite does not know: there is one writer at a time
    )
    row = connection.execute(wanted).one_or_none()
    if row is None:
        return None
    connection.execute(
        update(batch_pieces)
        .where(batch_pieces.c.batch_id == row.batch_id, batch_pieces.c.number == row.number)
        .values(free_at=now + lease, worker=worker, deaths=row.deaths + 1)
    )
    piece = PieceRow(row.number, row.file, row.start, row.stop, row.first, row.rows)
    return Claim(_get(connection, row.batch_id), piece, worker, row.deaths, row.failures)


def renew(connection: Connection, claim: Claim, *, until: datetime) -> bool:
    """Whether the piece is this worker's still."""
    return _changed(connection, claim, free_at=until)


def planned(
    connection: Connection,
    claim: Claim,
    pieces: Sequence[PieceRow],
    *,
    source: Mapping[str, Any],
    model_version: str,
    at: datetime,
) -> bool:
    """The pieces of a batch are these. False, and nothing is changed, where the claim does not hold any more."""
    if _locked(connection, claim) is None or not _deleted(connection, claim):
        return False
    _set(
        connection, claim.batch.id, state=BatchState.RUNNING.value, source=dict(source), model_version=model_version,
        pieces=len(pieces), rows=sum(piece.rows for piece in pieces), started_at=at, problem=None,
    )  # fmt: skip
    _insert_pieces(connection, claim.batch.id, pieces or [PieceRow(FINISH)], at)
    return True


def piece_done(
    connection: Connection, claim: Claim, *, accepted: int, errors: Sequence[Mapping[str, Any]], at: datetime
) -> bool:
    """Count the rows of a piece. False, and nothing is changed, where the claim does not hold any more."""
    batch = _locked(connection, claim)
    if batch is None or not _deleted(connection, claim):
        return False
    _set(
        connection, batch.id, done=batch.done + claim.piece.rows, accepted=batch.accepted + accepted,
        errors=batch.errors + len(errors), first_errors=[*batch.first_errors, *errors][:FIRST_ERRORS], problem=None,
    )  # fmt: skip
    left = select(batch_pieces.c.number).where(batch_pieces.c.batch_id == batch.id).limit(1)
    if connection.execute(left).first() is None:
        _insert_pieces(connection, batch.id, [PieceRow(FINISH)], at)
    return True


def finished(connection: Connection, claim: Claim, *, at: datetime) -> bool:
    """The result is there. False where the claim does not hold any more."""
    if _locked(connection, claim) is None or not _deleted(connection, claim):
        return False
    _set(connection, claim.batch.id, state=BatchState.DONE.value, ended_at=at, problem=None)
    return True


def put_back(connection: Connection, claim: Claim, problem: str, *, free_at: datetime) -> None:
    """A piece that cannot be done now: somebody tries again from `free_at` on, and the user is told why."""
    _locked(connection, claim)
    if _changed(connection, claim, free_at=free_at, worker=None, deaths=0, failures=claim.failures + 1):
        _set(connection, claim.batch.id, problem=problem)


def release(connection: Connection, worker: str, *, now: datetime) -> None:
    """Free what a worker held that is known to be dead."""
    connection.execute(update(batch_pieces).where(batch_pieces.c.worker == worker).values(free_at=now, worker=None))


def _end(connection: Connection, batch_id: str, state: BatchState, at: datetime, problem: str | None = None) -> None:
    states = [one.value for one in ACTIVE]
    ended = (
        update(batches)
        .where(batches.c.id == batch_id, batches.c.state.in_(states))
        .values(state=state.value, ended_at=at, problem=problem)
    )
    if connection.execute(ended).rowcount:
        connection.execute(delete(batch_pieces).where(batch_pieces.c.batch_id == batch_id))


def _insert_pieces(connection: Connection, batch_id: str, pieces: Sequence[PieceRow], at: datetime) -> None:
    common = {"batch_id": batch_id, "free_at": at, "deaths": 0, "failures": 0}
    rows = [{**common, **{name: getattr(piece, name) for name in PieceRow.__slots__}} for piece in pieces]
    connection.execute(insert(batch_pieces), rows)


def _locked(connection: Connection, claim: Claim) -> Row[Any] | None:
    """The row of the batch, which is locked before its pieces, whoever changes both.

    So of two workers that do the last pieces of a batch, the second sees that they are the last.
    """
    wanted = select(batches).where(batches.c.id == claim.batch.id).with_for_update()
    return connection.execute(wanted).one_or_none()


def _changed(connection: Connection, claim: Claim, **values: Any) -> bool:
    return connection.execute(update(batch_pieces).where(*_held(claim)).values(**values)).rowcount == 1


def _deleted(connection: Connection, claim: Claim) -> bool:
    return connection.execute(delete(batch_pieces).where(*_held(claim))).rowcount == 1


def _held(claim: Claim) -> tuple[Any, ...]:
    return (
        batch_pieces.c.batch_id == claim.batch.id,
        batch_pieces.c.number == claim.piece.number,
        batch_pieces.c.worker == claim.worker,
    )


def _set(connection: Connection, batch_id: str, **values: Any) -> None:
    connection.execute(update(batches).where(batches.c.id == batch_id).values(**values))


def _get(connection: Connection, batch_id: str) -> Batch:
    return _batch(connection.execute(select(batches).where(batches.c.id == batch_id)).one())


def _one(connection: Connection, *conditions: Any) -> Batch | None:
    row = connection.execute(select(batches).where(*conditions)).one_or_none()
    return None if row is None else _batch(row)


def _batch(row: Row[Any]) -> Batch:
    values = {name: getattr(row, name) for name in Batch.__slots__}
    return Batch(**{**values, "state": BatchState(values["state"])})

"""Batches in the database: what is claimed by whom, what counts, and what happens when a worker is not heard of."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from itertools import count

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError
from tests.store.conftest import NOW

from aisle.store import batches
from aisle.store.batches import FINISH, FIRST_ERRORS, PLAN, Batch, BatchState, Claim, NewBatch, PieceRow, PieceState
from aisle.store.engine import reading, writing
from aisle.store.schema import batch_pieces

LEASE = timedelta(seconds=30)
_numbers = count(1)


def ordered(engine: Engine, *, user: str = "anne", key: str | None = None, at: int = 0) -> Batch:
    new = NewBatch(f"{next(_numbers):032x}", user, "table.csv", None, None, key, "f" * 64, 1000)
    with writing(engine) as connection:
        return batches.add(connection, new, at=NOW + timedelta(seconds=at))


def claimed(engine: Engine, worker: str = "one", *, seconds: float = 0) -> Claim | None:
    with writing(engine) as connection:
        return batches.claim(connection, worker, now=NOW + timedelta(seconds=seconds), lease=LEASE)


def taken(engine: Engine, worker: str = "one", *, seconds: float = 0) -> Claim:
    claim = claimed(engine, worker, seconds=seconds)
    assert claim is not None
    return claim


def planned(engine: Engine, claim: Claim, sizes: Sequence[int]) -> bool:
    pieces = [PieceRow(number, rows=rows) for number, rows in enumerate(sizes)]
    with writing(engine) as connection:
        return batches.planned(connection, claim, pieces, source={"files": []}, model_version="v1", at=NOW)


def done(engine: Engine, claim: Claim, *errors: str) -> bool:
    found = [{"row": number, "error": error} for number, error in enumerate(errors)]
    with writing(engine) as connection:
        return batches.piece_done(connection, claim, accepted=1, errors=found, at=NOW)


def finished(engine: Engine, claim: Claim) -> bool:
    with writing(engine) as connection:
        return batches.finished(connection, claim, at=NOW)


def seen(engine: Engine, batch: Batch) -> Batch:
    with reading(engine) as connection:
        found = batches.find(connection, batch.id, user=batch.user_name)
    assert found is not None
    return found


def left(engine: Engine) -> int:
    with reading(engine) as connection:
        return int(connection.execute(select(func.count()).select_from(batch_pieces)).scalar_one())


def running(engine: Engine, *sizes: int) -> Batch:
    batch = ordered(engine)
    assert planned(engine, taken(engine, "planner"), sizes)
    return batch


def test_a_batch_is_planned_then_its_pieces_are_done_then_it_is_finished(engine: Engine) -> None:
    batch = ordered(engine)
    claim = taken(engine)
    assert (claim.batch, claim.piece.number) == (batch, PLAN)
    assert planned(engine, claim, [10, 7])
    for number in (0, 1):
        claim = taken(engine)
        assert claim.piece.number == number
        assert done(engine, claim)
    claim = taken(engine)
    assert claim.piece.number == FINISH
    assert seen(engine, batch).state is BatchState.RUNNING
    assert finished(engine, claim)
    now = seen(engine, batch)
    assert (now.state, now.rows, now.done, now.pieces, now.accepted) == (BatchState.DONE, 17, 17, 2, 2)
    assert claimed(engine) is None


def test_a_table_without_rows_is_finished_at_once(engine: Engine) -> None:
    running(engine)
    assert taken(engine).piece.number == FINISH


def test_what_is_leased_is_nobody_elses_until_the_lease_is_over(engine: Engine) -> None:
    running(engine, 5)
    first = taken(engine, "one")
    assert claimed(engine, "two", seconds=29) is None
    second = taken(engine, "two", seconds=30)
    assert (second.piece, second.deaths) == (first.piece, 1)


def test_a_lease_can_be_renewed_as_long_as_it_holds(engine: Engine) -> None:
    running(engine, 5)
    claim = taken(engine, "one")
    with writing(engine) as connection:
        assert batches.renew(connection, claim, until=NOW + timedelta(seconds=60))
    assert claimed(engine, "two", seconds=59) is None
    taken(engine, "two", seconds=60)
    with writing(engine) as connection:
        assert not batches.renew(connection, claim, until=NOW + timedelta(seconds=90))


def test_a_row_counts_once_though_two_workers_did_it(engine: Engine) -> None:
    batch = running(engine, 5, 5)
    slow = taken(engine, "slow")
    fast = taken(engine, "fast", seconds=31)
    assert slow.piece == fast.piece
    assert done(engine, fast)
    assert not done(engine, slow)
    assert seen(engine, batch).done == 5


def test_a_piece_of_which_workers_die_counts_them_but_not_what_is_put_back(engine: Engine) -> None:
    running(engine, 5)
    for deaths in range(3):
        assert taken(engine, f"worker {deaths}", seconds=100 * deaths).deaths == deaths
    claim = taken(engine, "careful", seconds=1000)
    with writing(engine) as connection:
        batches.put_back(connection, claim, "the disk is full", free_at=NOW + timedelta(seconds=2000))
    assert claimed(engine, seconds=1999) is None
    claim = taken(engine, seconds=2000)
    assert (claim.deaths, claim.failures, claim.batch.problem) == (0, 1, "the disk is full")


def test_what_a_dead_worker_held_can_be_freed_before_its_lease_is_over(engine: Engine) -> None:
    running(engine, 5, 5)
    held = taken(engine, "dead")
    other = taken(engine, "alive")
    with writing(engine) as connection:
        batches.release(connection, "dead", now=NOW)
    assert taken(engine, "third").piece == held.piece
    assert claimed(engine, "third") is None
    assert done(engine, other)


def test_a_small_batch_does_not_wait_for_a_large_one(engine: Engine) -> None:
    running(engine, *[5] * 10)
    assert [taken(engine).piece.number for _ in range(4)] == [0, 1, 2, 3]
    small = ordered(engine)
    assert taken(engine).piece.number == PLAN
    with writing(engine) as connection:
        batches.release(connection, "one", now=NOW)
    assert planned_of(engine, small)


def planned_of(engine: Engine, batch: Batch) -> bool:
    claim = taken(engine, "two")
    return claim.batch.id == batch.id and claim.piece.number == PLAN


def test_a_cancelled_batch_has_no_work_left_and_what_was_under_way_does_not_count(engine: Engine) -> None:
    batch = running(engine, 5, 5)
    claim = taken(engine)
    with writing(engine) as connection:
        batches.cancel(connection, batch.id, at=NOW)
    assert left(engine) == 0
    assert not done(engine, claim)
    now = seen(engine, batch)
    assert (now.state, now.done, now.ended_at) == (BatchState.CANCELLED, 0, NOW)


def test_a_batch_that_is_over_cannot_be_cancelled_or_fail(engine: Engine) -> None:
    batch = running(engine)
    assert finished(engine, taken(engine))
    with writing(engine) as connection:
        batches.cancel(connection, batch.id, at=NOW)
        batches.fail(connection, batch.id, "too late", at=NOW)
    assert (seen(engine, batch).state, seen(engine, batch).problem) == (BatchState.DONE, None)


def test_a_failed_batch_says_why_and_has_no_work_left(engine: Engine) -> None:
    batch = running(engine, 5)
    with writing(engine) as connection:
        batches.fail(connection, batch.id, "has no column 'designation'", at=NOW)
    assert (seen(engine, batch).state, seen(engine, batch).problem) == (
        BatchState.FAILED,
        "has no column 'designation'",
    )
    assert left(engine) == 0


def test_what_is_removed_is_gone_and_its_workers_notice(engine: Engine) -> None:
    batch = running(engine, 5)
    claim = taken(engine)
    with writing(engine) as connection:
        batches.remove(connection, [batch.id])
    assert left(engine) == 0
    assert not done(engine, claim)
    with writing(engine) as connection:
        assert not batches.renew(connection, claim, until=NOW)
        batches.put_back(connection, claim, "whatever", free_at=NOW)
        assert batches.known(connection) == set()


def test_all_errors_are_counted_and_the_first_are_kept(engine: Engine) -> None:
    batch = running(engine, 20, 20)
    for letter in "ab":
        assert done(engine, taken(engine), *[letter] * 8)
    now = seen(engine, batch)
    assert (now.errors, len(now.first_errors)) == (16, FIRST_ERRORS)
    assert [one["error"] for one in now.first_errors] == [*"aaaaaaaabb"]


def test_a_users_key_is_for_one_batch_and_another_user_has_keys_of_their_own(engine: Engine) -> None:
    batch = ordered(engine, key="k")
    other = ordered(engine, user="ben", key="k")
    with reading(engine) as connection:
        assert batches.with_key(connection, "anne", "k") == batch
        assert batches.with_key(connection, "ben", "k") == other
        assert batches.with_key(connection, "anne", "other") is None
    with pytest.raises(IntegrityError):
        ordered(engine, key="k")
    ordered(engine), ordered(engine)  # without a key there may be many


def test_nobody_finds_anothers_batch(engine: Engine) -> None:
    batch = ordered(engine)
    with reading(engine) as connection:
        assert batches.find(connection, batch.id, user="ben") is None
        assert batches.page(connection, "ben", count=10) == []


def test_pages_follow_each_other_without_a_gap_though_times_are_equal(engine: Engine) -> None:
    made = [ordered(engine, at=at) for at in (0, 1, 1, 1, 2)]
    found: list[Batch] = []
    with reading(engine) as connection:
        while page := batches.page(
            connection, "anne", count=2, after=(found[-1].created_at, found[-1].id) if found else None
        ):
            found += page
    assert found == sorted(made, key=lambda one: (one.created_at, one.id), reverse=True)


def test_only_what_is_not_over_counts_as_active(engine: Engine) -> None:
    batch = running(engine)
    ordered(engine)
    with reading(engine) as connection:
        assert batches.active_count(connection, "anne") == 2
    assert taken(engine).piece.number == FINISH
    with writing(engine) as connection:
        batches.cancel(connection, batch.id, at=NOW)
        assert batches.active_count(connection, "anne") == 1


def test_what_ended_before_a_moment_is_found(engine: Engine) -> None:
    batch = running(engine)
    ordered(engine)
    with writing(engine) as connection:
        batches.cancel(connection, batch.id, at=NOW)
        assert batches.ended_before(connection, NOW) == []
        assert batches.ended_before(connection, NOW + timedelta(seconds=1)) == [batch.id]


def backlog(engine: Engine, *, seconds: float = 0) -> batches.Backlog:
    with reading(engine) as connection:
        return batches.backlog(connection, now=NOW + timedelta(seconds=seconds))


def test_without_batches_nothing_waits(engine: Engine) -> None:
    found = backlog(engine)
    assert not any(found.batches.values())
    assert not any(found.pieces.values())
    assert found.tried_in_vain == 0


def test_the_backlog_is_what_is_free_what_is_held_and_what_was_put_back(engine: Engine) -> None:
    running(engine, 3, 3, 3, 3)
    unwanted = ordered(engine)
    with writing(engine) as connection:
        batches.cancel(connection, unwanted.id, at=NOW)
    taken(engine, "one")
    failing = taken(engine, "two")
    with writing(engine) as connection:
        batches.put_back(connection, failing, "the disk is full", free_at=NOW + timedelta(seconds=8))
    found = backlog(engine, seconds=1)
    assert found.pieces == {PieceState.FREE: 2, PieceState.HELD: 1, PieceState.PUT_BACK: 1}
    assert found.tried_in_vain == 1
    assert {state: count for state, count in found.batches.items() if count} == {
        BatchState.RUNNING: 1,
        BatchState.CANCELLED: 1,
    }
    later = backlog(engine, seconds=60)  # the lease is over, and the pause
    assert later.pieces == {PieceState.FREE: 4, PieceState.HELD: 0, PieceState.PUT_BACK: 0}
    assert later.tried_in_vain == 1


def test_workers_at_the_same_time_do_every_piece_once_and_one_of_them_finishes(engine: Engine) -> None:
    batch = running(engine, *[3] * 60)
    did: Counter[int] = Counter()

    def work(name: str) -> None:
        while (claim := claimed(engine, name)) is not None:
            did[claim.piece.number] += 1
            assert finished(engine, claim) if claim.piece.number == FINISH else done(engine, claim)

    threads = [threading.Thread(target=work, args=(f"worker {number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while (claim := claimed(engine, "last")) is not None:  # a worker that found nothing free went early
        did[claim.piece.number] += 1
        assert finished(engine, claim) if claim.piece.number == FINISH else done(engine, claim)
    assert did == Counter([FINISH, *range(60)])
    assert (seen(engine, batch).state, seen(engine, batch).done) == (BatchState.DONE, 180)

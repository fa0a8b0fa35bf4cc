"""Prometheus is told what batches wait for, by the service: workers have no port."""

from __future__ import annotations

from pathlib import Path

import pytest

from aisle.clock import utc_now
from aisle.errors import ServiceMissing
from aisle.service import backlog
from aisle.store import batches
from aisle.store.batches import NewBatch
from aisle.store.engine import open_database, writing
from aisle.store.migrate import migrate
from aisle.web.metrics import exposition


def told() -> set[str]:
    return {line for line in exposition("").decode().splitlines() if line.startswith("aisle_batch")}


def test_what_waits_is_told_and_stays_so_while_the_database_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'aisle.db'}")
    migrate(engine)
    with writing(engine) as connection:
        batches.add(connection, NewBatch("0" * 32, "anne", "table.csv", None, None, None, "f" * 64, 10), at=utc_now())
    expected = {
        'aisle_batches{state="waiting"} 1.0',
        'aisle_batches{state="failed"} 0.0',
        'aisle_batch_pieces{state="free"} 1.0',
        'aisle_batch_pieces{state="held"} 0.0',
        "aisle_batch_pieces_tried_in_vain 0.0",
    }
    backlog.tell_backlog(engine, utc_now)
    assert expected <= told()

    def away(_: object) -> None:
        raise ServiceMissing("the database is away")

    monkeypatch.setattr(backlog, "reading", away)
    backlog.tell_backlog(engine, utc_now)
    assert expected <= told()

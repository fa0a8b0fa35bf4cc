"""What batches wait for, told to Prometheus: workers have no port, and what they do stands in the database."""

from __future__ import annotations

from sqlalchemy import Engine

from aisle.clock import Clock
from aisle.errors import ServiceMissing
from aisle.service.metrics import BATCH_PIECES, BATCH_PIECES_IN_VAIN, BATCHES
from aisle.store import batches
from aisle.store.engine import reading


def tell_backlog(engine: Engine, clock: Clock) -> None:
    """While the database is away the figures stay as they were: that it is, others say."""
    try:
        with reading(engine) as connection:
            found = batches.backlog(connection, now=clock())
    except ServiceMissing:
        return
    for state, count in found.batches.items():
        BATCHES.labels(state.value).set(count)
    for piece_state, count in found.pieces.items():
        BATCH_PIECES.labels(piece_state.value).set(count)
    BATCH_PIECES_IN_VAIN.set(found.tried_in_vain)

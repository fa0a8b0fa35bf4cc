"""What the console needs: a queue of predictions to look at, its sessions, indexes to page by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aisle.store.reviews import doubt_of, lane_of
from aisle.store.schema import UtcTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

AT_ONCE = 1000


def upgrade() -> None:
    op.create_index("ix_feedback_of_user", "feedback", ["user_name", "id"])
    op.create_index("ix_audit_who", "audit", ["who", "id"])
    op.create_index("ix_audit_what", "audit", ["what", "id"])
    op.create_table(
        "reviews",
        sa.Column(
            "prediction_id", sa.String(32), sa.ForeignKey("predictions.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("lane", sa.Integer, nullable=False),
        sa.Column("doubt", sa.Float),
    )
    is_waiting = sa.text("doubt IS NOT NULL")
    op.create_index(
        "ix_reviews_waiting", "reviews", ["lane", "doubt"], sqlite_where=is_waiting, postgresql_where=is_waiting
    )
    _queue_what_is_there()
    op.create_table(
        "console_sessions",
        sa.Column("id_hash", sa.String(64), primary_key=True),
        sa.Column("user_name", sa.String(100), nullable=False),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("renew_at", UtcTime, nullable=False),
        sa.Column("expires_at", UtcTime, nullable=False),
    )
    op.create_index("ix_console_sessions_expires_at", "console_sessions", ["expires_at"])


def _queue_what_is_there() -> None:
    """Predictions of before, as if they had been recorded today."""
    connection = op.get_bind()
    predictions = sa.table(
        "predictions", sa.column("id", sa.String), sa.column("top", sa.JSON), sa.column("decision", sa.String)
    )
    reviews = sa.table("reviews", sa.column("prediction_id"), sa.column("lane"), sa.column("doubt"))
    said = sa.table("feedback", sa.column("prediction_id"))
    given = sa.select(said.c.prediction_id).where(said.c.prediction_id == predictions.c.id).exists()
    last = ""
    while True:
        some = connection.execute(
            sa.select(predictions.c.id, predictions.c.top, given.label("given"))
            .where(predictions.c.decision == "review", predictions.c.id > last)
            .order_by(predictions.c.id)
            .limit(AT_ONCE)
        ).all()
        if not some:
            return
        last = some[-1].id
        rows = [
            {"prediction_id": one.id, "lane": lane_of(one.top), "doubt": None if one.given else doubt_of(one.top)}
            for one in some
        ]
        connection.execute(sa.insert(reviews), rows)


def downgrade() -> None:
    op.drop_table("console_sessions")
    op.drop_table("reviews")
    op.drop_index("ix_audit_what", "audit")
    op.drop_index("ix_audit_who", "audit")
    op.drop_index("ix_feedback_of_user", "feedback")

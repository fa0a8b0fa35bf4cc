"""Batches: bulk predictions as jobs, and the pieces of them that are to be done."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aisle.store.schema import UtcTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("user_name", sa.String(100), nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("location", sa.Text),
        sa.Column("images", sa.Text),
        sa.Column("idempotency_key", sa.String(200)),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("max_rows", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("model_version", sa.String(100)),
        sa.Column("source", sa.JSON(none_as_null=True)),
        sa.Column("pieces", sa.Integer),
        sa.Column("rows", sa.BigInteger),
        sa.Column("done", sa.BigInteger, nullable=False),
        sa.Column("accepted", sa.BigInteger, nullable=False),
        sa.Column("errors", sa.BigInteger, nullable=False),
        sa.Column("first_errors", sa.JSON, nullable=False),
        sa.Column("started_at", UtcTime),
        sa.Column("ended_at", UtcTime),
        sa.Column("problem", sa.Text),
        sa.UniqueConstraint("user_name", "idempotency_key", name="uq_batches_user_name"),
    )
    op.create_index("ix_batches_ended_at", "batches", ["ended_at"])
    op.create_index("ix_batches_of_user", "batches", ["user_name", "created_at"])
    op.create_table(
        "batch_pieces",
        sa.Column("batch_id", sa.String(32), sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("file", sa.Integer, nullable=False),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("stop", sa.BigInteger, nullable=False),
        sa.Column("first", sa.BigInteger, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("free_at", UtcTime, nullable=False),
        sa.Column("worker", sa.String(40)),
        sa.Column("deaths", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
    )
    op.create_index("ix_batch_pieces_next", "batch_pieces", ["number", "free_at"])


def downgrade() -> None:
    op.drop_table("batch_pieces")
    op.drop_table("batches")

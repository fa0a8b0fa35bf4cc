"""What reviewers need to share the queue: small photos, and who looks at what; an index to count predictions by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aisle.store.schema import UtcTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("reviews", sa.Column("held_by", sa.String(100)))
    op.add_column("reviews", sa.Column("held_until", UtcTime))
    _index_what_waits(["lane", "doubt", "held_until"])
    is_held = sa.text("held_by IS NOT NULL")
    op.create_index(
        "ix_reviews_held", "reviews", ["held_by", "held_until"], sqlite_where=is_held, postgresql_where=is_held
    )
    op.create_table(
        "photos",
        sa.Column(
            "prediction_id", sa.String(32), sa.ForeignKey("predictions.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("jpeg", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_photos_age", "photos", ["created_at", "prediction_id", "bytes"])
    counted_by = ["model_version", "decision", "created_at", "confidence"]
    op.create_index("ix_predictions_of_model", "predictions", counted_by)


def _index_what_waits(columns: list[str]) -> None:
    is_waiting = sa.text("doubt IS NOT NULL")
    op.drop_index("ix_reviews_waiting", "reviews")
    op.create_index("ix_reviews_waiting", "reviews", columns, sqlite_where=is_waiting, postgresql_where=is_waiting)


def downgrade() -> None:
    op.drop_index("ix_predictions_of_model", "predictions")
    op.drop_table("photos")
    op.drop_index("ix_reviews_held", "reviews")
    _index_what_waits(["lane", "doubt"])
    op.drop_column("reviews", "held_until")
    op.drop_column("reviews", "held_by")

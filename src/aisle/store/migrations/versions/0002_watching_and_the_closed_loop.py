"""What drift and experiments need of a prediction; experiments, shadow predictions, and retrainings."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aisle.store.schema import UtcTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("predictions", sa.Column("product_key", sa.String(200)))
    op.add_column("predictions", sa.Column("image_facts", sa.JSON(none_as_null=True)))
    op.add_column("predictions", sa.Column("seconds", sa.Float))
    op.add_column("predictions", sa.Column("experiment_id", sa.Integer))
    op.add_column("predictions", sa.Column("arm", sa.String(20)))
    is_of_one = sa.text("experiment_id IS NOT NULL")
    op.create_index(
        "ix_predictions_experiment",
        "predictions",
        ["experiment_id", "created_at", "arm", "model_version", "seconds", "input_hash"],
        sqlite_where=is_of_one,
        postgresql_where=is_of_one,
    )
    _create_experiments()
    _create_retrainings()


def _create_experiments() -> None:
    op.create_table(
        "experiments",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("champion", sa.String(100), nullable=False),
        sa.Column("challenger", sa.String(100), nullable=False),
        sa.Column("share", sa.Float, nullable=False),
        sa.Column("rules", sa.JSON, nullable=False),
        sa.Column("started_by", sa.String(200), nullable=False),
        sa.Column("started_at", UtcTime, nullable=False),
        sa.Column("ended_at", UtcTime),
        sa.Column("outcome", sa.String(20)),
        sa.Column("reason", sa.Text),
        sa.Column("findings", sa.JSON(none_as_null=True)),
        sa.Column("looked_at", UtcTime),
        sa.Column("running", sa.Integer),
        sa.UniqueConstraint("running", name="uq_experiments_running"),
    )
    op.create_table(
        "shadow_predictions",
        sa.Column(
            "prediction_id", sa.String(32), sa.ForeignKey("predictions.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("experiment_id", sa.Integer, sa.ForeignKey("experiments.id"), nullable=False, index=True),
        sa.Column("input_hash", sa.String(64), nullable=False),
        sa.Column("predicted", sa.String(50)),
        sa.Column("confidence", sa.Float),
        sa.Column("agrees", sa.Integer),
        sa.Column("seconds", sa.Float),
        sa.Column("champion_seconds", sa.Float, nullable=False),
        sa.Column("error", sa.Text),
    )


def _create_retrainings() -> None:
    op.create_table(
        "retrainings",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("cause", sa.String(20), nullable=False),
        sa.Column("asked_by", sa.String(200), nullable=False),
        sa.Column("stage", sa.String(20), nullable=False),
        sa.Column("started_at", UtcTime, nullable=False),
        sa.Column("updated_at", UtcTime, nullable=False),
        sa.Column("ended_at", UtcTime),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.Column("active", sa.Integer),
        sa.UniqueConstraint("active", name="uq_retrainings_active"),
    )
    op.create_table(
        "retraining_requests",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", UtcTime, nullable=False),
        sa.Column("cause", sa.String(20), nullable=False),
        sa.Column("asked_by", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("answered_at", UtcTime),
        sa.Column("answer", sa.Text),
    )


def downgrade() -> None:
    for table in ("retraining_requests", "retrainings", "shadow_predictions", "experiments"):
        op.drop_table(table)
    op.drop_index("ix_predictions_experiment", "predictions")
    for column in ("arm", "experiment_id", "seconds", "image_facts", "product_key"):
        op.drop_column("predictions", column)

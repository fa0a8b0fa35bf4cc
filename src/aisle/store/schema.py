"""What is in the database. A change here needs a migration; a test holds the two together on both engines.

Times are UTC and carry their zone. Secrets are never stored as they are: passwords and API keys as hashes,
refresh tokens as hashes. `audit` only grows: triggers refuse to change or delete a row of it,
but for names that an erasure replaces. Whose data a table has is said in `privacy.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

# Names for every constraint, so that a later migration can drop one on either engine.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcTime(TypeDecorator[datetime]):
    """A moment. Takes datetimes with a zone only, and gives UTC back; SQLite by itself forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


users = Table(
    "users",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("kind", String(20), nullable=False),  # person, service
    Column("role", String(20), nullable=False),  # admin, reviewer, client
    Column("password_hash", String(255)),  # a service account has none
    Column("created_at", UtcTime, nullable=False),
    Column("disabled_at", UtcTime),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("prefix", String(20), primary_key=True),  # shown, to tell keys apart
    Column("key_hash", String(64), nullable=False),
    Column("user_name", ForeignKey("users.name"), nullable=False, index=True),
    Column("created_at", UtcTime, nullable=False),
    Column("revoked_at", UtcTime),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", String(64), primary_key=True),
    Column("algorithm", String(10), nullable=False),
    Column("public_jwk", JSON, nullable=False),
    Column("private_pem", Text, nullable=False),
    # Its state follows from these times and the clock: see auth/keys.py.
    Column("published_at", UtcTime, nullable=False),
    Column("signs_from", UtcTime, nullable=False),
    Column("signs_until", UtcTime),
    Column("verifies_until", UtcTime),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("family", String(32), nullable=False, index=True),
    Column("user_name", ForeignKey("users.name"), nullable=False, index=True),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False, index=True),
    Column("used_at", UtcTime),
    Column("revoked_at", UtcTime),
)

predictions = Table(
    "predictions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("created_at", UtcTime, nullable=False, index=True),
    # No foreign key: the name comes from a token, whose issuer may keep its users in another database.
    Column("user_name", String(100), nullable=False),
    Column("input_hash", String(64), nullable=False, index=True),
    Column("designation", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("image_hash", String(64)),
    Column("predicted", String(50), nullable=False),
    Column("confidence", Float, nullable=False),
    Column("top", JSON, nullable=False),
    Column("decision", String(20), nullable=False),
    Column("model_version", String(100), nullable=False),
    Column("product_key", String(200)),  # what the shop calls the product, where it said so
    Column("image_facts", JSON(none_as_null=True)),  # size, light and features of the image, which is not kept
    Column("seconds", Float),  # that the model took, waiting included
    Column("experiment_id", Integer),
    Column("arm", String(20)),  # champion, challenger: to whom that experiment gave the product
)
Index(  # all that what a version decided is counted by
    "ix_predictions_of_model",
    *(predictions.c[name] for name in ("model_version", "decision", "created_at", "confidence")),
)
Index(  # all that an experiment is counted by: its records themselves are not read
    "ix_predictions_experiment",
    *(predictions.c[name] for name in (
        "experiment_id", "created_at", "arm", "model_version", "seconds", "input_hash",
    )),
    sqlite_where=predictions.c.experiment_id.is_not(None),
    postgresql_where=predictions.c.experiment_id.is_not(None),
)  # fmt: skip

feedback = Table(
    "feedback",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("prediction_id", ForeignKey("predictions.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", UtcTime, nullable=False),
    Column("user_name", String(100), nullable=False),
    Column("type_code", String(50), nullable=False),
    Index("ix_feedback_of_user", "user_name", "id"),
)

reviews = Table(  # one row for each prediction that a person should look at
    "reviews",
    metadata,
    Column("prediction_id", ForeignKey("predictions.id", ondelete="CASCADE"), primary_key=True),
    Column("lane", Integer, nullable=False),  # of products that the model is unsure of in the same way
    Column("doubt", Float),  # how unsure it is; null: somebody has looked
    Column("held_by", String(100)),  # who looks at it now, and nobody else before that time
    Column("held_until", UtcTime),
)
Index(
    "ix_reviews_waiting",
    *(reviews.c[name] for name in ("lane", "doubt", "held_until")),
    sqlite_where=reviews.c.doubt.is_not(None),
    postgresql_where=reviews.c.doubt.is_not(None),
)
Index(
    "ix_reviews_held",
    *(reviews.c[name] for name in ("held_by", "held_until")),
    sqlite_where=reviews.c.held_by.is_not(None),
    postgresql_where=reviews.c.held_by.is_not(None),
)

photos = Table(  # of products that wait to be looked at, small
    "photos",
    metadata,
    Column("prediction_id", ForeignKey("predictions.id", ondelete="CASCADE"), primary_key=True),
    Column("created_at", UtcTime, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("jpeg", LargeBinary, nullable=False),  # the last one: the others are read without it
    Index("ix_photos_age", "created_at", "prediction_id", "bytes"),
)

experiments = Table(
    "experiments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(20), nullable=False),  # shadow, canary, ab
    Column("champion", String(100), nullable=False),
    Column("challenger", String(100), nullable=False),
    Column("share", Float, nullable=False),  # of the products that the challenger answers for
    Column("rules", JSON, nullable=False),
    Column("started_by", String(200), nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("ended_at", UtcTime),
    Column("outcome", String(20)),  # worse, enough, stopped, superseded
    Column("reason", Text),
    Column("findings", JSON(none_as_null=True)),  # of the last look
    Column("looked_at", UtcTime),  # null again once a service has noticed that it ended
    Column("running", Integer, unique=True),  # 1 or null: at most one runs
)

shadow_predictions = Table(
    "shadow_predictions",
    metadata,
    Column("prediction_id", ForeignKey("predictions.id", ondelete="CASCADE"), primary_key=True),
    Column("experiment_id", ForeignKey("experiments.id"), nullable=False, index=True),
    Column("input_hash", String(64), nullable=False),  # this and what the champion said: see the prediction
    Column("predicted", String(50)),
    Column("confidence", Float),
    Column("agrees", Integer),  # 1 or 0: with the champion
    Column("seconds", Float),  # of processor time
    Column("champion_seconds", Float, nullable=False),
    Column("error", Text),
)

retrainings = Table(
    "retrainings",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("cause", String(20), nullable=False),  # hand, schedule, drift, corrections
    Column("asked_by", String(200), nullable=False),
    Column("stage", String(20), nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("ended_at", UtcTime),
    Column("detail", JSON, nullable=False),  # what each stage left, for the next one and for people
    Column("active", Integer, unique=True),  # 1 or null: one at a time
)

retraining_requests = Table(
    "retraining_requests",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("cause", String(20), nullable=False),
    Column("asked_by", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("answered_at", UtcTime),
    Column("answer", Text),  # why not, or which retraining it became
)

batches = Table(
    "batches",
    metadata,
    Column("id", String(32), primary_key=True),
    # No foreign key: as with predictions.
    Column("user_name", String(100), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("name", Text, nullable=False),  # what the user calls the table
    Column("location", Text),  # of the table; null: it was uploaded, and so of the images
    Column("images", Text),
    Column("idempotency_key", String(200)),
    Column("fingerprint", String(64), nullable=False),  # of the request
    Column("max_rows", BigInteger, nullable=False),
    Column("state", String(20), nullable=False),  # waiting, running, done, failed, cancelled
    Column("model_version", String(100)),  # the same for all rows, from the first on
    Column("source", JSON(none_as_null=True)),  # how the table is written
    Column("pieces", Integer),
    Column("rows", BigInteger),
    Column("done", BigInteger, nullable=False),
    Column("accepted", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("first_errors", JSON, nullable=False),
    Column("started_at", UtcTime),
    Column("ended_at", UtcTime, index=True),
    Column("problem", Text),  # why it failed, or what it waits for
    UniqueConstraint("user_name", "idempotency_key"),
    Index("ix_batches_of_user", "user_name", "created_at"),
)

batch_pieces = Table(  # what is to be done; what is done is gone
    "batch_pieces",
    metadata,
    Column("batch_id", ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("file", Integer, nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("stop", BigInteger, nullable=False),
    Column("first", BigInteger, nullable=False),  # the number of its first row
    Column("rows", Integer, nullable=False),
    Column("free_at", UtcTime, nullable=False),  # the end of a lease, or of a pause
    Column("worker", String(40)),
    Column("deaths", Integer, nullable=False),  # workers that began it and were not heard of again
    Column("failures", Integer, nullable=False),
    Index("ix_batch_pieces_next", "number", "free_at"),
)

console_sessions = Table(
    "console_sessions",
    metadata,
    Column("id_hash", String(64), primary_key=True),
    Column("user_name", String(100), nullable=False),
    Column("sealed", Text, nullable=False),  # the tokens, under a key that only the browser's cookie has
    Column("created_at", UtcTime, nullable=False),
    Column("renew_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False, index=True),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("who", String(200), nullable=False),
    Column("what", String(100), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("before", JSON(none_as_null=True)),
    Column("after", JSON(none_as_null=True)),
    Index("ix_audit_at", "at"),
    Index("ix_audit_who", "who", "id"),
    Index("ix_audit_what", "what", "id"),
)

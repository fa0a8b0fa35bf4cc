"""Alembic's environment: it works on the connection that `aisle.store.migrate` hands over, in its transaction."""

from __future__ import annotations

from alembic import context

from aisle.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()

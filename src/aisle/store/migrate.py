"""Bringing a database up to date, by the program itself: no `alembic` command has to be run by hand.

Several processes may start at once: one migrates, the others wait for it and find nothing left to do.
"""

from __future__ import annotations

from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from aisle.store.engine import is_sqlite, writing

# Any number will do, as long as nothing else in the database takes the same lock.
_LOCK = 7_237_001


def migrate(engine: Engine) -> None:
    """Apply every migration that the database lacks, in one transaction: all of them or none.

    A database that a newer release migrated stays as it is: a release leaves the one before it able to run.

    Raises ServiceMissing when the database does not answer.
    """
    with writing(engine) as connection, as_file(files("aisle.store") / "migrations") as folder:
        take_turns(connection, _LOCK)
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.attributes["connection"] = connection
        known = {one.revision for one in ScriptDirectory.from_config(config).walk_revisions()}
        if known.issuperset(MigrationContext.configure(connection).get_current_heads()):
            command.upgrade(config, "head")


def take_turns(connection: Connection, lock: int) -> None:
    """Wait until no other transaction holds `lock`. SQLite's writing transactions take turns by themselves."""
    if not is_sqlite(connection):
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})

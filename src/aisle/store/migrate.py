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

from aisle.store.engine import is_sqlite, reading, writing

# Any number will do, as long as nothing else in the database takes the same lock.
_LOCK = 7_237_001


def migrate(engine: Engine) -> None:
    """Apply every migration that the database lacks, in one transaction: all of them or none.

    Where none is lacking it is only read, so nobody waits for whoever is writing. A database that a newer release
    migrated stays as it is: a release leaves the one before it able to run.

    Raises ServiceMissing when the database does not answer.
    """
    with as_file(files("aisle.store") / "migrations") as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        known = ScriptDirectory.from_config(config)
        with reading(engine) as connection:
            if not _lacks_any(connection, known):
                return
        with writing(engine) as connection:
            take_turns(connection, _LOCK)
            if _lacks_any(connection, known):
                config.attributes["connection"] = connection
                command.upgrade(config, "head")


def _lacks_any(connection: Connection, known: ScriptDirectory) -> bool:
    applied = set(MigrationContext.configure(connection).get_current_heads())
    revisions = {one.revision for one in known.walk_revisions()}
    return applied <= revisions and applied != set(known.get_heads())


def take_turns(connection: Connection, lock: int) -> None:
    """Wait until no other transaction holds `lock`. SQLite's writing transactions take turns by themselves."""
    if not is_sqlite(connection):
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})

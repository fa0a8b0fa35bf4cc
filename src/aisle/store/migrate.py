"""Bringing a database up to date, by the program itself: no `alembic` command has to be run by hand.

Several processes may start at once: one migrates, the others wait for it and find nothing left to do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from aisle.errors import CheckFailed
from aisle.store.engine import is_sqlite, reading, writing

# Any number will do, as long as nothing else in the database takes the same lock.
_LOCK = 7_237_001


def migrate(engine: Engine) -> None:
    """Apply every migration that the database lacks, in one transaction: all of them or none.

    Where none is lacking it is only read, so nobody waits for whoever is writing. A database that a newer release
    migrated stays as it is: a release leaves the one before it able to run.

    Raises ServiceMissing when the database does not answer.
    """
    with _migrations() as (config, known):
        with reading(engine) as connection:
            if not _lacks_any(connection, known):
                return
        with writing(engine) as connection:
            take_turns(connection, _LOCK)
            if _lacks_any(connection, known):
                config.attributes["connection"] = connection
                command.upgrade(config, "head")


def revision(connection: Connection) -> str | None:
    """The last migration that was applied; None: the database is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def known_revision(connection: Connection) -> str:
    """The same, of a database that was migrated. Raises CheckFailed for one that this release does not know."""
    applied = str(revision(connection))
    with _migrations() as (_, known):
        _check_known(applied, known)
    return applied


def migrate_empty(connection: Connection, to: str) -> None:
    """In the caller's transaction: make the tables of a migration. Raises as `known_revision` does."""
    with _migrations() as (config, known):
        _check_known(to, known)
        config.attributes["connection"] = connection
        command.upgrade(config, to)


def _check_known(applied: str, known: ScriptDirectory) -> None:
    if applied not in {one.revision for one in known.walk_revisions()}:
        raise CheckFailed(f"the database is that of a newer release (migration {applied})", hint="Use that one.")


@contextlib.contextmanager
def _migrations() -> Iterator[tuple[Config, ScriptDirectory]]:
    with as_file(files("aisle.store") / "migrations") as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        yield config, ScriptDirectory.from_config(config)


def _lacks_any(connection: Connection, known: ScriptDirectory) -> bool:
    applied = set(MigrationContext.configure(connection).get_current_heads())
    revisions = {one.revision for one in known.walk_revisions()}
    return applied <= revisions and applied != set(known.get_heads())


def take_turns(connection: Connection, lock: int) -> None:
    """Wait until no other transaction holds `lock`. SQLite's writing transactions take turns by themselves."""
    if not is_sqlite(connection):
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})

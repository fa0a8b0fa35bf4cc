"""Some instances are of one release, some of the next: the one before runs on the schema after it, and back."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, Inspector, inspect

from aisle.store.engine import open_database, writing
from aisle.store.migrate import migrate, migrate_empty


def revisions() -> list[str]:
    """Of all migrations, the first one first."""
    config = Config()
    config.set_main_option("script_location", str(files("aisle.store") / "migrations"))
    return [one.revision for one in ScriptDirectory.from_config(config).walk_revisions()][::-1]


@pytest.fixture
def empty(database_url: str) -> Iterator[Engine]:
    engine = open_database(database_url)
    yield engine
    engine.dispose()


def columns(found: Inspector) -> dict[str, dict[str, bool]]:
    """By table: each column, and whether a row may be written without it."""
    return {
        table: {
            one["name"]: bool(one["nullable"] or one["default"] is not None or one.get("autoincrement") is True)
            for one in found.get_columns(table)
        }
        for table in found.get_table_names()
    }


@pytest.mark.parametrize("after", range(1, len(revisions())))
def test_what_a_release_writes_is_taken_by_the_schema_of_the_next_one(empty: Engine, after: int) -> None:
    """Nothing that it writes to is gone, and nothing is asked for that it does not know."""
    before_it, it = revisions()[after - 1 : after + 1]
    with writing(empty) as connection:
        migrate_empty(connection, before_it)
        old = columns(inspect(connection))
    with writing(empty) as connection:
        migrate_empty(connection, it)
        new = columns(inspect(connection))
    for table, known in old.items():
        assert table in new
        assert known.keys() <= new[table].keys(), table
        assert all(optional for name, optional in new[table].items() if name not in known), table


def test_a_database_of_any_release_before_is_brought_up_to_date_where_it_is(empty: Engine) -> None:
    with writing(empty) as connection:
        migrate_empty(connection, revisions()[0])
    migrate(empty)
    with writing(empty) as connection:
        found = columns(inspect(connection))
    assert {"predictions", "photos", "audit"} <= found.keys()

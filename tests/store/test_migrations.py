"""The database that the migrations make is the one that the schema describes, however many processes start."""

from __future__ import annotations

import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from aisle.store.engine import open_database, reading, writing
from aisle.store.migrate import migrate
from aisle.store.schema import metadata

PROGRAM = """
import sys
from aisle.store.engine import open_database
from aisle.store.migrate import migrate
engine = open_database(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
migrate(engine)
"""


def test_the_migrations_make_what_the_schema_describes(engine: Engine) -> None:
    with reading(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_migrating_again_changes_nothing(engine: Engine) -> None:
    before = inspect(engine).get_table_names()
    migrate(engine)
    assert inspect(engine).get_table_names() == before


def test_whoever_finds_nothing_to_migrate_waits_for_no_writer(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
        another = open_database(engine.url.render_as_string(hide_password=False))
        migrate(another)
        another.dispose()


def test_a_database_that_a_newer_release_migrated_stays_as_it_is(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    migrate(engine)
    with reading(engine) as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"


@pytest.mark.slow
def test_two_processes_that_start_at_once_both_find_a_whole_database(database_url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", PROGRAM, database_url]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:  # neither goes before both are ready
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        _, complaint = process.communicate(timeout=60)
        assert process.returncode == 0, complaint
    engine = open_database(database_url)
    assert set(metadata.tables) <= set(inspect(engine).get_table_names())
    engine.dispose()

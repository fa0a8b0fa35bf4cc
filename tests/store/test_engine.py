"""A database that cannot do what it is asked: one error that says why, whichever database it is."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, text
from tests.servers import new_cluster

from aisle.errors import ServiceMissing
from aisle.store import engine as store
from aisle.store.engine import open_database, reading, snapshot, writing

PAGE = 8192


@contextlib.contextmanager
def opened(url: str) -> Iterator[Engine]:
    engine = open_database(url)
    yield engine
    engine.dispose()


def fill(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE shelf (number INTEGER, name TEXT)"))
        rows = [{"number": number, "name": "x" * 200} for number in range(2_000)]
        connection.execute(text("INSERT INTO shelf VALUES (:number, :name)"), rows)


def read(engine: Engine) -> int:
    with reading(engine) as connection:
        return len(connection.execute(text("SELECT number, name FROM shelf")).all())


def spoil(path: Path, first: int, last: int) -> None:
    with path.open("rb+") as file:
        file.seek(first)
        file.write(b"\xa5" * (last - first))


def test_a_damaged_page_of_sqlite_is_a_database_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "aisle.db"
    with opened(f"sqlite:///{path}") as engine:
        fill(engine)
    size = path.stat().st_size
    spoil(path, size // 2, size // 2 + 3 * 4096)
    with opened(f"sqlite:///{path}") as engine, pytest.raises(ServiceMissing, match=r"damaged.*docs/restoring"):
        read(engine)


def test_a_file_that_is_no_database_is_one_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "aisle.db"
    path.write_bytes(b"\xa5" * 10_000)
    with opened(f"sqlite:///{path}") as engine, pytest.raises(ServiceMissing, match="damaged"):
        read(engine)


def test_a_mistake_of_ours_is_none_of_the_database(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path / 'aisle.db'}") as engine:
        fill(engine)
        with pytest.raises(Exception, match="UNIQUE") as failed, writing(engine) as connection:
            connection.execute(text("CREATE UNIQUE INDEX one ON shelf (name)"))
        assert isinstance(failed.value.__cause__, sqlite3.IntegrityError)


def test_when_all_connections_are_taken_that_is_said(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path / 'aisle.db'}") as engine, contextlib.ExitStack() as stack:
        fill(engine)
        engine.pool._timeout = 0.01  # type: ignore[attr-defined]
        with pytest.raises(ServiceMissing, match="all connections"):
            for _ in range(100):
                stack.enter_context(reading(engine))


@pytest.mark.slow
def test_a_postgresql_that_takes_no_writes_says_so_and_can_be_read(empty_postgres: str) -> None:
    with opened(empty_postgres) as engine:
        fill(engine)
        name = engine.url.database
        with writing(engine) as connection:
            connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    with opened(empty_postgres) as engine:
        assert read(engine) == 2_000
        with pytest.raises(ServiceMissing, match=r"takes no writes.*standby"), writing(engine) as connection:
            connection.execute(text("DELETE FROM shelf"))


@pytest.mark.slow
def test_a_connection_that_breaks_while_it_is_tried_is_a_database_that_is_missing(
    empty_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_: object) -> bool:
        raise psycopg.ProgrammingError("can't change 'autocommit' now: connection in transaction status ACTIVE")

    with opened(empty_postgres) as engine:
        fill(engine)
        with monkeypatch.context() as patch:
            patch.setattr(engine.dialect, "do_ping", breaks)
            with pytest.raises(ServiceMissing, match="does not answer"):
                read(engine)
        assert read(engine) == 2_000


@pytest.mark.slow
def test_a_writer_that_is_not_heard_of_any_more_does_not_keep_its_locks(
    empty_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a machine that is gone no end comes: the connection stays, and says nothing."""
    monkeypatch.setattr(store, "IDLE_SECONDS", 1)
    with opened(empty_postgres) as gone, opened(empty_postgres) as alive:
        fill(gone)
        with pytest.raises(ServiceMissing), writing(gone) as connection:
            connection.execute(text("UPDATE shelf SET name = 'gone' WHERE number = 1"))
            with writing(alive) as other:
                other.execute(text("UPDATE shelf SET name = 'alive' WHERE number = 1"))
            connection.execute(text("SELECT 1"))
        with reading(alive) as connection:
            assert connection.execute(text("SELECT name FROM shelf WHERE number = 1")).scalar() == "alive"


@pytest.mark.slow
def test_a_snapshot_may_take_as_long_as_it_likes(empty_postgres: str) -> None:
    with opened(empty_postgres) as engine:
        shown = text("SHOW idle_in_transaction_session_timeout")
        with snapshot(engine) as connection:
            assert connection.execute(shown).scalar() == "0"
        with reading(engine) as connection:
            assert connection.execute(shown).scalar() == "5min"


@pytest.mark.slow
def test_a_damaged_page_of_postgresql_is_a_database_that_is_missing() -> None:
    with new_cluster() as cluster:
        with cluster.running(), opened(cluster.url) as engine:
            fill(engine)
            with reading(engine) as connection:
                file = connection.execute(text("SELECT pg_relation_filepath('shelf')")).scalar_one()
        spoil(cluster.folder / "data" / file, 3 * PAGE, 4 * PAGE)
        with (
            cluster.running(),
            opened(cluster.url) as engine,
            pytest.raises(ServiceMissing, match=r"damaged.*docs/restoring"),
        ):
            read(engine)

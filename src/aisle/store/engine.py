"""Opening the database: SQLite in a file by default, PostgreSQL by `DATABASE_URL`.

    engine = open_database(settings.database_url)
    with reading(engine) as connection: ...
    with writing(engine) as connection: ...    # one transaction, committed at the end

On SQLite a writing transaction takes the write lock when it begins: two writers wait for each other instead of
failing half-way, which is what `BEGIN` followed by a late upgrade of the lock does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from sqlalchemy.pool import ConnectionPoolEntry

from aisle.errors import ServiceMissing, UsageError

BUSY_SECONDS = 30
CONNECT_SECONDS = 5
POOL_SECONDS = 10
"""How long to wait for a connection while others have them all."""
IDLE_SECONDS = 300
"""After which PostgreSQL ends a transaction that nobody goes on with: a machine that is gone would keep its locks
until TCP gives up, which takes hours."""
_IDLE = "idle_in_transaction_session_timeout"
_WRITE = "aisle_write"


def open_database(url: str) -> Engine:
    """An engine for `url`. Raises UsageError for an address that is neither SQLite nor PostgreSQL."""
    address = _address(url)
    if address.get_backend_name() == "sqlite":
        return _open_sqlite(address)
    session = f"-c timezone=utc -c {_IDLE}={IDLE_SECONDS}s"
    options = {"connect_timeout": CONNECT_SECONDS, "options": session}
    return create_engine(address, pool_pre_ping=True, pool_timeout=POOL_SECONDS, connect_args=options)


@contextlib.contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection that only reads. Raises ServiceMissing when there is none to be had."""
    with _reachable(engine), engine.connect() as connection:
        yield connection


@contextlib.contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A connection that sees one state of the database, however long it reads and whatever others write.

    Raises ServiceMissing as `reading` does.
    """
    if engine.dialect.name != "sqlite":
        engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with reading(engine) as connection:
        # The state is chosen by the first statement; by SQLite, if that reads.
        connection.execute(text("SELECT 1 FROM sqlite_master" if is_sqlite(connection) else "SELECT 1"))
        if not is_sqlite(connection):  # what is done with what was read, a back-up, say, may take long
            connection.execute(text(f"SET LOCAL {_IDLE} = 0"))
        yield connection


@contextlib.contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction: committed at the end, rolled back on an error. Raises ServiceMissing as `reading` does."""
    with _reachable(engine), engine.execution_options(**{_WRITE: True}).begin() as connection:
        yield connection


def is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert those rows whose key is not there yet."""
    if rows:
        kind = sqlite if is_sqlite(connection) else postgresql
        connection.execute(kind.insert(table).on_conflict_do_nothing(), rows)


def _address(url: str) -> URL:
    hint = "DATABASE_URL is sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME."
    try:
        address = make_url(url)
    except ArgumentError:
        # The address may hold a password: it is not repeated.
        raise UsageError("DATABASE_URL is not an address of a database", hint=hint) from None
    if address.drivername in ("postgresql", "postgres"):
        address = address.set(drivername="postgresql+psycopg")
    if address.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise UsageError(f"cannot use a database of the kind {address.drivername}", hint=hint)
    return address


def _open_sqlite(address: URL) -> Engine:
    if address.database in (None, "", ":memory:"):
        raise UsageError("the database has to be a file, several processes share it", hint="sqlite:///data/aisle.db")
    path = Path(str(address.database))
    _create_private(path)
    options = {"timeout": BUSY_SECONDS, "check_same_thread": False}
    engine = create_engine(address, pool_timeout=POOL_SECONDS, connect_args=options)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver begins nothing on its own: `begin` below does
        _keep_a_write_ahead_log(connection, path)
        for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get(_WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _keep_a_write_ahead_log(connection: Any, path: Path) -> None:
    """Switch the file to WAL, once and for all. SQLite refuses at once, whatever its time-out, when two processes
    do so together: they take turns here."""
    if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        return
    turn = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        connection.execute("PRAGMA journal_mode=WAL").close()
    finally:
        os.close(turn)


def _create_private(path: Path) -> None:
    """Only the owner reads the file, which holds password hashes; SQLite gives its side files the same mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


@contextlib.contextmanager
def _reachable(engine: Engine) -> Iterator[None]:
    try:
        yield
    except PoolExhausted as error:
        hint = "Too much is asked at once, or something holds connections for long."
        raise _missing(engine, "all connections to the database are taken", hint) from error
    except DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
        if _is_damaged(error.orig):
            hint = "Restore a backup: docs/restoring.md."
            raise _missing(engine, f"the database is damaged: {reason}", hint) from error
        if _sqlstate(error.orig) == _READ_ONLY:
            hint = "DATABASE_URL names a standby, or a server that was told to take no writes."
            raise _missing(engine, f"the database takes no writes: {reason}", hint) from error
        # Without a statement it is the connection, whatever its driver calls that: on one that breaks while it is
        # tried psycopg cannot set back what was changed for the trial, which is an error of its own.
        if isinstance(error, OperationalError) or error.connection_invalidated or error.statement is None:
            hint = "Check DATABASE_URL and that it runs."
            raise _missing(engine, f"the database does not answer: {reason}", hint) from error
        raise


_READ_ONLY = "25006"
_DAMAGED = frozenset({"XX001", "XX002"})
"""Of a table, of an index: https://www.postgresql.org/docs/current/errcodes-appendix.html"""


def _sqlstate(error: BaseException | None) -> str:
    return str(getattr(error, "sqlstate", "") or "")


def _is_damaged(error: BaseException | None) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # what is above says more of the same
    return _sqlstate(error) in _DAMAGED or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _missing(engine: Engine, what: str, hint: str) -> ServiceMissing:
    return ServiceMissing(what, where=engine.url.render_as_string(hide_password=True), hint=hint)

"""A token service on a database of its own, and a clock that a test sets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from aisle.auth.accounts import Accounts
from aisle.auth.app import create_app
from aisle.auth.keys import KeyPolicy, ensure_key
from aisle.settings import Settings
from aisle.store.engine import open_database
from aisle.store.migrate import migrate
from aisle.store.users import Role

PASSWORD = "correct horse battery"


class SetClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **how_far: float) -> None:
        self.now += timedelta(**how_far)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(f"sqlite:///{tmp_path / 'aisle.db'}")
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def accounts(engine: Engine, clock: SetClock) -> Accounts:
    """Anne, an administrator, and Bob, a client."""
    accounts = Accounts(engine, "test", clock)
    accounts.add_person("anne", Role.ADMIN, PASSWORD)
    accounts.add_person("bob", Role.CLIENT, PASSWORD)
    return accounts


@pytest.fixture
def client(engine: Engine, settings: Settings, accounts: Accounts, clock: SetClock) -> Iterator[TestClient]:
    """A client of the service with default settings, at 192.0.2.1."""
    ensure_key(engine, KeyPolicy.of(settings), clock=clock)
    app = create_app(engine, settings, clock=clock)
    with TestClient(app, client=("192.0.2.1", 5000), raise_server_exceptions=False) as client:
        yield client

"""A database for each test: SQLite always, PostgreSQL where the slow tests run."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine

from aisle.store.engine import open_database
from aisle.store.migrate import migrate

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'aisle.db'}"
    url: str = request.getfixturevalue("empty_postgres")
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A database that is up to date."""
    engine = open_database(database_url)
    migrate(engine)
    yield engine
    engine.dispose()

"""What tests of containers share: one engine for the session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.deploy.engine import Engine, running_engine


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with running_engine(tmp_path_factory.mktemp("docker")) as engine:
        yield engine

"""What the neighbours start their tests with."""

from tests.service.conftest import start_service
from tests.store.conftest import database_url, engine

__all__ = ["database_url", "engine", "start_service"]

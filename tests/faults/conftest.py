"""What the neighbours start their tests with."""

from tests.service.conftest import start_service as start_service
from tests.store.conftest import database_url as database_url
from tests.store.conftest import engine as engine

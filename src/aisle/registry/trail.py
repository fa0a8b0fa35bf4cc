"""The audit trail of the registry: nothing is changed without an entry in it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aisle.clock import utc_now
from aisle.settings import Settings
from aisle.store import audit
from aisle.store.engine import open_database, writing
from aisle.store.migrate import migrate


@contextmanager
def trail(settings: Settings, who: str) -> Iterator[Callable[..., None]]:
    """What is changed in this context and told to its value (`what`, `subject`, `before`, `after`) is in the trail.

    An error in it leaves no entry. Raises ServiceMissing, before anything is changed, without the database.
    """
    engine = open_database(settings.database_url)
    migrate(engine)
    with writing(engine) as connection:
        yield functools.partial(audit.record, connection, who=who, at=utc_now())
    engine.dispose()

"""One round of the closed loop, and round after round: go on with the retraining under way, or begin what is due."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

from aisle.clock import Clock, utc_now
from aisle.errors import AisleError, BundleError
from aisle.files import read_json
from aisle.logs import get_logger
from aisle.loop.retrain import Retrainings, Way
from aisle.loop.triggers import Due, NotDue, what_is_due
from aisle.model.bundle import RUN_FILE
from aisle.registry.bundles import CHAMPION, BundleStore
from aisle.settings import Settings
from aisle.store import retrainings
from aisle.store.engine import writing
from aisle.store.retrainings import Retraining

Tell = Callable[[Retraining], None]


def run_due(
    shop: Retrainings, way: Callable[[], Way], *, clock: Clock = utc_now, tell: Tell = lambda _: None
) -> Retraining | NotDue:
    """Advance the retraining under way, or begin the one that is due; else why none is. Raises as `advance` does."""
    if shop.active() is None:
        with writing(shop.engine) as connection:
            due = what_is_due(connection, shop.settings, now=clock(), trained_at=champion_trained_at(shop.settings))
            if isinstance(due, NotDue):
                retrainings.answer(connection, due.requests, due.reason, at=clock())
                return due
        asked_by = due.requests[0].asked_by if due.requests else ""
        begun = shop.begin(due.cause, reason=due.reason, way=way(), asked_by=asked_by)
        _answer(shop, due, begun, clock)
    now = shop.advance(tell=tell)
    return now if now is not None else NotDue("another process ended the retraining")


def watch(
    shop: Retrainings,
    way: Callable[[], Way],
    *,
    stop: threading.Event,
    seconds: float,
    tell: Tell = lambda _: None,
    after: Callable[[], None] = lambda: None,
) -> None:
    """A round every so many seconds until `stop` is set; an error ends its round, never the watch.

    `after` is called at the end of each round.
    """
    said = ""
    while not stop.is_set():
        try:
            found = run_due(shop, way, tell=tell)
            if isinstance(found, NotDue) and found.reason != said:
                get_logger(__name__).info("no retraining", reason=found.reason)
                said = found.reason
        except AisleError as error:
            get_logger(__name__).error("the round failed, the next one is to come", reason=str(error))
        except Exception as error:  # noqa: BLE001  whatever it was, the next round is to come
            get_logger(__name__).error("the round failed, the next one is to come", exc_info=error)
        after()
        stop.wait(seconds)


def champion_trained_at(settings: Settings) -> datetime | None:
    """When the champion's training began; None without a champion, or where its bundle does not say."""
    try:
        path = BundleStore(settings.models_path).find(CHAMPION)
        return datetime.fromisoformat(read_json(path / RUN_FILE)["began"])
    except (AisleError, BundleError, OSError, ValueError, KeyError, TypeError):
        return None


def _answer(shop: Retrainings, due: Due, begun: Retraining, clock: Clock) -> None:
    with writing(shop.engine) as connection:
        retrainings.answer(connection, due.requests, f"retraining {begun.id}", at=clock())

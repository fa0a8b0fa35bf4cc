"""The model that serves: loaded, warmed up, checked against its known answer, and replaced while running.

A new champion is loaded beside the old one; only when it gives its known answer does it take over. The old one ends
with its last batch. A bundle that does not load, or answers wrongly, changes nothing but what `refused` says.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path

from aisle.catalog import Decision
from aisle.clock import Clock, utc_now
from aisle.files import read_json
from aisle.logs import get_logger
from aisle.model.bundle import RUN_FILE
from aisle.model.known_answer import load_checked
from aisle.model.predictor import Predictor
from aisle.service.metrics import MODEL, MODEL_REFUSED, MODEL_TRAINED, PREDICTIONS, RELOAD_FAILURES, STAGE_SECONDS
from aisle.web.metrics import from_zero


@dataclass(frozen=True)
class Refused:
    """A bundle that did not take over."""

    path: Path
    reason: str
    at: datetime


class Champion:
    """`find` names the folder of the bundle that is to serve. Raises BundleError when the first one is bad.

    `follow` is called now and then, in one thread at a time; `lend` from any.
    """

    def __init__(self, find: Callable[[], Path], *, threads: int = 0, clock: Clock = utc_now) -> None:
        self._find = find
        self._threads = threads
        self._clock = clock
        self._lock = threading.Lock()
        self.refused: Refused | None = None
        self._serving = self._load(find())
        _tell_of(self._serving)

    @property
    def predictor(self) -> Predictor:
        """Who serves now, to be asked about itself; `lend` it for work, or it may be closed meanwhile."""
        return self._serving.predictor

    @property
    def since(self) -> datetime:
        return self._serving.since

    @contextlib.contextmanager
    def lend(self) -> Iterator[Predictor]:
        """The predictor that serves now; it stays open until it is given back, whoever serves by then."""
        with self._lock:
            loan = self._serving
            loan.borrowers += 1
        try:
            yield loan.predictor
        finally:
            with self._lock:
                loan.borrowers -= 1
                is_over = loan.retired and not loan.borrowers
            if is_over:
                loan.predictor.close()

    def follow(self) -> bool:
        """Look who is to serve; whether somebody new does. A bundle that was refused is tried again only when its
        folder has changed, or when another was to serve meanwhile."""
        tried, self._tried = self._tried, None
        path = self._serving.path
        try:
            path = self._find()
            if path == self._serving.path:
                if self.refused is not None:
                    self.refused = None
                    MODEL_REFUSED.set(0)
                return False
            self._tried = path, _state_of(path)
            if self._tried == tried:
                return False
            new = self._load(path)
        except Exception as error:  # noqa: BLE001  whatever a bundle brings, the next one is to be looked at
            self._refuse(path, error)
            return False
        self._replace(new)
        return True

    def close(self) -> None:
        self._serving.predictor.close()

    _tried: tuple[Path, int] | None = None

    def _load(self, path: Path) -> _Loaded:
        predictor = load_checked(path, threads=self._threads, observe=_observe)
        return _Loaded(path, predictor, self._clock())

    def _replace(self, new: _Loaded) -> None:
        with self._lock:
            old, self._serving, self.refused = self._serving, new, None
            old.retired = True
            is_over = not old.borrowers
        MODEL.labels(old.predictor.version).set(0)
        MODEL_TRAINED.labels(old.predictor.version).set(math.nan)
        _tell_of(new)
        MODEL_REFUSED.set(0)
        if is_over:
            old.predictor.close()
        get_logger(__name__).info("new champion", model_version=new.predictor.version, before=old.predictor.version)

    def _refuse(self, path: Path, error: Exception) -> None:
        if self.refused is None or (self.refused.path, self.refused.reason) != (path, str(error)):
            RELOAD_FAILURES.inc()
            get_logger(__name__).error("new champion refused", path=str(path), reason=str(error))
            MODEL_REFUSED.set(1)
            self.refused = Refused(path, str(error), self._clock())


@dataclass
class _Loaded:
    path: Path
    predictor: Predictor
    since: datetime
    borrowers: int = 0
    retired: bool = False


def _tell_of(serving: _Loaded) -> None:
    version = serving.predictor.version
    MODEL.labels(version).set(1)
    from_zero(PREDICTIONS, *product(serving.predictor.classifier.codes, Decision, [version]))
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # nobody needs it in order to serve
        began = datetime.fromisoformat(read_json(serving.path / RUN_FILE)["began"])
        MODEL_TRAINED.labels(version).set(began.timestamp())


def _state_of(path: Path) -> int:
    return (path / "manifest.json").stat().st_mtime_ns if (path / "manifest.json").exists() else 0


def _observe(stage: str, seconds: float) -> None:
    STAGE_SECONDS.labels(stage).observe(seconds)

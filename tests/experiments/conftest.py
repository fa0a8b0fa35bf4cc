"""A database for each test, and experiments in it whose predictions a test makes up."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from aisle.catalog import TypeChanges
from aisle.experiments.judge import Findings, Rules, judge
from aisle.store import experiments, predictions
from aisle.store.engine import open_database, reading, writing
from aisle.store.experiments import Arm, Experiment, Kind, Outcome, Shadowed
from aisle.store.migrate import migrate
from aisle.store.predictions import Feedback, PredictionRecord

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database that is up to date."""
    on_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'aisle.db'}" if on_sqlite else request.getfixturevalue("empty_postgres")
    engine = open_database(url)
    migrate(engine)
    yield engine
    engine.dispose()


@dataclass
class Trial:
    """An experiment, and predictions in it: one a second, each of another product unless it is named."""

    engine: Engine
    experiment: Experiment
    _count: itertools.count[int] = field(default_factory=itertools.count)

    def predicted(
        self,
        arm: Arm = Arm.CHAMPION,
        said: str = "10",
        *,
        right: str | None = None,
        seconds: float = 0.01,
        product: str = "",
        version: str = "",
        shadow: str | None = None,
        shadow_seconds: float = 0.01,
        shadow_error: str | None = None,
    ) -> str:
        """A prediction, and what the challenger said in its shadow; `right` is what a person says then."""
        number = next(self._count)
        of, identity = self.experiment, f"{number:032x}"
        input_hash = product or f"product {number}"
        record = PredictionRecord(
            id=identity,
            created_at=NOW + timedelta(seconds=number),
            user_name="shop",
            input_hash=input_hash,
            designation="",
            description="",
            image_hash=None,
            predicted=said,
            confidence=0.5,
            top=[],
            decision="accept",
            model_version=version or (of.challenger if arm is Arm.CHALLENGER else of.champion),
            seconds=seconds,
            experiment_id=of.id,
            arm=arm,
        )
        is_shown = shadow is not None or shadow_error is not None
        agrees = shadow == said if shadow else None
        shadowed = Shadowed(identity, of.id, input_hash, shadow, 0.5, agrees, shadow_seconds, seconds, shadow_error)
        with writing(self.engine) as connection:
            predictions.add(connection, [record])
            experiments.add_shadowed(connection, [shadowed] if is_shown else [])
        if right is not None:
            self.corrected(identity, right)
        return identity

    def corrected(self, prediction_id: str, right: str) -> None:
        with writing(self.engine) as connection:
            predictions.add_feedback(connection, Feedback(prediction_id, NOW, "reviewer", right))

    def findings(self, changes: TypeChanges = TypeChanges()) -> Findings:
        with reading(self.engine) as connection:
            return judge(connection, self.experiment, changes)

    def end(self) -> None:
        with writing(self.engine) as connection:
            experiments.end(
                connection, self.experiment.id, outcome=Outcome.STOPPED, reason="over", who="test", at=NOW
            )


def started(engine: Engine, kind: Kind, *, share: float = 0.5, **rules: Any) -> Trial:
    with writing(engine) as connection:
        experiment = experiments.start(
            connection,
            kind=kind,
            champion="old",
            challenger="new",
            share=share,
            rules=asdict(Rules(**rules)),
            who="test",
            at=NOW,
        )
    return Trial(engine, experiment)

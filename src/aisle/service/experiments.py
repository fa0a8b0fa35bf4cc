"""The experiment that runs, as this process takes part in it: who answers, what is shown, and when it is over.

The database says which one runs; every process looks now and then, and takes part once it has the challenger. A
shadow costs no answer anything. In a canary and an A/B test the challenger answers for its share; where it fails, the
champion answers, and the failure is counted: no request fails because of an experiment. While the database is away an
experiment goes on as it was.

Of all processes one looks whether the challenger is worse, and ends the experiment if it is; the others notice at
their next look, and give everything to the champion again.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine

from aisle.catalog import Prediction, Product, ProductType
from aisle.clock import Clock
from aisle.errors import BundleError, ServiceMissing
from aisle.experiments.assignment import arm_of
from aisle.experiments.judge import Rules, Verdict, judge
from aisle.logs import get_logger
from aisle.model.predictor import Outcome as Said
from aisle.registry.bundles import BundleStore
from aisle.service.aside import Aside, ChallengerQueue
from aisle.service.batching import BatchingQueue, TooLate
from aisle.service.champion import Champion
from aisle.service.metrics import (
    ARM_PREDICTIONS,
    ARM_SECONDS,
    EXPERIMENT_RUNNING,
    EXPERIMENT_SHARE,
    EXPERIMENTS_STOPPED,
)
from aisle.service.recorder import Recorder
from aisle.service.shadow import Shadow
from aisle.settings import Settings
from aisle.store import experiments
from aisle.store.engine import reading, writing
from aisle.store.experiments import Arm, Experiment, Kind, Outcome
from aisle.store.predictions import PredictionRecord

LOOKS_IN_POLLS = 2
CHALLENGER_PLACES = 0.25
"""Of those in the queue; beyond, products that are the challenger's are the champion's, and count for nobody."""
LOOKING_SHARE = 0.05
"""Of the time, at most, is spent looking whether a challenger is worse."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What was said of a product, in how many seconds, and for which arm of which experiment."""

    said: Said
    seconds: float
    experiment_id: int | None = None
    arm: Arm | None = None


@dataclass(slots=True)
class _Running:
    experiment: Experiment
    challenger: Aside
    queue: ChallengerQueue | None  # of a challenger that answers
    shadow: Shadow | None  # of one that is shown

    @property
    def labels(self) -> tuple[str, str, str]:
        return self.experiment.kind, self.experiment.champion, self.experiment.challenger


class Experiments:
    """`follow` and `stop` are for the event loop that predicts."""

    def __init__(
        self,
        champion: Champion,
        queue: BatchingQueue,
        recorder: Recorder,
        engine: Engine,
        settings: Settings,
        *,
        clock: Clock,
    ) -> None:
        self._champion = champion
        self._queue = queue
        self._recorder = recorder
        self._engine = engine
        self._settings = settings
        self._store = BundleStore(settings.models_path)
        self._clock = clock
        self._who = f"service:{socket.gethostname()}"
        self._running: _Running | None = None
        self._is_away = False
        self._look_seconds = 0.0
        self._most_waiting = max(1, int(settings.queue_size * CHALLENGER_PLACES))

    @property
    def experiment(self) -> Experiment | None:
        """The one that this process takes part in."""
        running = self._running
        return running.experiment if running is not None and self._is_of_champion(running.experiment) else None

    @property
    def types(self) -> Mapping[str, ProductType]:
        """What the challenger may say."""
        running = self._running
        return running.challenger.types if running is not None else {}

    async def predict(self, product: Product, *, key: str | None, content: str, user: str) -> Answered:
        """For whoever has a place in the queue. Raises what the champion's queue does.

        `key` is what the shop calls the product, `content` a hash of it.
        """
        experiment, running, started = self.experiment, self._running, time.perf_counter()
        if experiment is None or running is None:
            return Answered(await self._queue.predict(product), time.perf_counter() - started)
        arm, queue = Arm.CHAMPION, running.queue
        if queue is not None:
            arm = arm_of(experiment, user if Rules.of(experiment).unit == "user" else key or content)
        if arm is Arm.CHALLENGER and queue is not None:
            if queue.waiting >= self._most_waiting:  # the champion's products are not to find the places taken
                return Answered(await self._queue.predict(product), time.perf_counter() - started)
            said = await self._by_challenger(product, queue)
        else:
            said = await self._by_champion(product, running)
        seconds = time.perf_counter() - started
        if isinstance(said, Prediction):
            version = experiment.challenger if arm is Arm.CHALLENGER else experiment.champion
            ARM_PREDICTIONS.labels(arm, "ok" if said.model_version == version else "error").inc()
            ARM_SECONDS.labels(arm).observe(seconds)
        return Answered(said, seconds, experiment.id, arm)

    def show(self, product: Product, record: PredictionRecord, *, key: str | None) -> None:
        """Let the challenger of a shadow see what was answered, once the record is on its way to the database."""
        running = self._running
        if running is None or running.shadow is None or running.experiment.id != record.experiment_id:
            return
        if arm_of(running.experiment, key or record.input_hash) is Arm.CHALLENGER:
            running.shadow.show(product, record)

    async def follow(self) -> None:
        """Begin, go on with, or leave the experiment that runs; and look, when it is this process's turn."""
        try:
            await self._follow()
        except ServiceMissing as error:
            if not self._is_away:
                get_logger(__name__).error("experiments not followed, they go on", reason=str(error))
            self._is_away = True
        else:
            self._is_away = False

    async def stop(self) -> None:
        if self._running is not None:
            self._running.challenger.close()
            await self._leave(self._running)

    # Answers

    async def _by_challenger(self, product: Product, queue: ChallengerQueue) -> Said:
        """The champion answers for a challenger that fails, is too slow, or finds nothing that it can use."""
        try:
            said = await queue.predict(product)
        except Exception as error:  # noqa: BLE001  whatever a challenger does
            get_logger(__name__).warning("challenger failed", reason=f"{type(error).__name__}: {error}")
        else:
            if isinstance(said, Prediction):
                return said
        return await self._queue.predict(product)

    async def _by_champion(self, product: Product, running: _Running) -> Said:
        """The challenger answers for a champion that breaks: each stands in for the other, so that both failures
        are counted alike. Who only came too late is told so."""
        try:
            return await self._queue.predict(product)
        except TooLate:
            raise
        except Exception:
            if running.queue is None or self._running is not running:
                raise
            [said] = await asyncio.gather(running.queue.predict(product), return_exceptions=True)
            if isinstance(said, Prediction):
                return said
            raise

    def _is_of_champion(self, experiment: Experiment) -> bool:
        return self._champion.predictor.version == experiment.champion

    # Beginning and leaving

    async def _follow(self) -> None:
        found = await run_in_threadpool(self._find)
        running = self._running
        if running is not None and (found is None or found.id != running.experiment.id):
            await self._leave(running)
            await run_in_threadpool(self._notice, running.experiment)
        if found is None:
            return
        if self._running is None:
            await self._join(found)
        else:
            self._running.experiment = found
            EXPERIMENT_SHARE.set(found.share)
        await run_in_threadpool(self._look, found)

    async def _join(self, experiment: Experiment) -> None:
        if not self._is_of_champion(experiment):
            return  # another model is set here, or the pointer has just been changed
        settings, is_shadow = self._settings, experiment.kind is Kind.SHADOW
        seconds = settings.predict_timeout_seconds
        challenger = Aside(
            self._store.root / experiment.challenger,
            threads=1 if is_shadow else settings.threads,
            seconds=seconds if is_shadow else seconds / 2,  # the champion has to have its time, too
            in_background=is_shadow,
        )
        try:
            await challenger.start()
        except (BundleError, OSError) as error:
            await run_in_threadpool(self._end, experiment, Outcome.WORSE, "errors", f"it cannot serve: {error}")
            return
        running = _Running(experiment, challenger, None, None)
        if is_shadow:
            with self._champion.lend() as predictor:
                types = {*predictor.bundle.types(), *predictor.classifier.codes}
            changes = await run_in_threadpool(self._store.changes_of, experiment.challenger)
            running.shadow = Shadow(challenger, self._queue, self._recorder, champion_types=types, changes=changes)
            running.shadow.start()
        else:
            running.queue = ChallengerQueue(
                challenger, size=settings.queue_size, batch=settings.batch_size, seconds=seconds / 2
            )
            running.queue.start()
        self._running = running
        EXPERIMENT_RUNNING.labels(*running.labels).set(1)
        EXPERIMENT_SHARE.set(experiment.share)
        get_logger(__name__).info("experiment joined", id=experiment.id, kind=experiment.kind.value)

    async def _leave(self, running: _Running) -> None:
        """From now on the champion answers; who is with the challenger gets its answer, which cannot take long."""
        self._running = None
        EXPERIMENT_RUNNING.labels(*running.labels).set(0)
        EXPERIMENT_SHARE.set(0)
        if running.queue is not None:
            await running.queue.idle.wait()
            await running.queue.stop()
        running.challenger.close()
        if running.shadow is not None:
            await running.shadow.stop()
        get_logger(__name__).info("experiment left", id=running.experiment.id)

    # What is asked of the database, in a thread

    def _find(self) -> Experiment | None:
        """The experiment that runs; one whose champion is champion no more has ended."""
        with reading(self._engine) as connection:
            found = experiments.current(connection)
        if found is None:
            return None
        try:
            champion = self._store.serving().champion
        except BundleError:  # a damaged pointer: nobody can tell, and whoever serves goes on
            return found
        if champion in (None, found.champion):
            return found
        self._end(found, Outcome.SUPERSEDED, "", f"{champion} is the champion by now")
        return None

    def _look(self, experiment: Experiment) -> None:
        every = max(LOOKS_IN_POLLS * self._settings.champion_poll_seconds, self._look_seconds / LOOKING_SHARE)
        now = self._clock()
        with writing(self._engine) as connection:
            last_before = now - timedelta(seconds=every)
            if not experiments.claim_look(connection, experiment.id, at=now, last_before=last_before):
                return
        started = time.perf_counter()
        with reading(self._engine) as connection:
            found = judge(connection, experiment, self._store.changes_of(experiment.challenger))
        self._look_seconds = time.perf_counter() - started
        if found.verdict is Verdict.WORSE and found.worse_in is not None:
            self._end(experiment, Outcome.WORSE, found.worse_in, found.reason, found.as_dict())
            return
        with writing(self._engine) as connection:
            experiments.keep_findings(connection, experiment.id, found.as_dict())

    def _end(
        self,
        experiment: Experiment,
        outcome: Outcome,
        criterion: str,
        reason: str,
        findings: Mapping[str, object] | None = None,
    ) -> None:
        with writing(self._engine) as connection:
            is_mine = experiments.end(
                connection,
                experiment.id,
                outcome=outcome,
                reason=reason,
                who=self._who,
                at=self._clock(),
                findings=findings,
            )
            if is_mine:
                experiments.claim_notice(connection, experiment.id)
        if is_mine:
            get_logger(__name__).warning("experiment ended", id=experiment.id, outcome=outcome.value, reason=reason)
            if outcome is Outcome.WORSE:
                EXPERIMENTS_STOPPED.labels(criterion).inc()

    def _notice(self, experiment: Experiment) -> None:
        with writing(self._engine) as connection:
            ended = experiments.get(connection, experiment.id)
            is_first = experiments.claim_notice(connection, experiment.id)
        if is_first and ended.outcome is Outcome.STOPPED:
            EXPERIMENTS_STOPPED.labels("by hand").inc()

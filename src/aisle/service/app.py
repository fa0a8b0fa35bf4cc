"""The prediction service put together: who may ask, how often, the queue before the model, the record behind it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from inspect import iscoroutinefunction

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine

from aisle import __version__
from aisle.auth.tokens import Verifier
from aisle.clock import Clock, utc_now
from aisle.console.asking import ROOT as CONSOLE
from aisle.console.bulk import HERE as BULK
from aisle.console.pages import create_console
from aisle.logs import get_logger
from aisle.registry.bundles import BundleStore
from aisle.service.backlog import tell_backlog
from aisle.service.batches import Intake
from aisle.service.batching import BatchingQueue
from aisle.service.champion import Champion
from aisle.service.desk import ServiceDesk
from aisle.service.experiments import Experiments
from aisle.service.explaining import Explaining
from aisle.service.handover import Handover
from aisle.service.journal import Journal
from aisle.service.limits import RateLimits
from aisle.service.metrics import QUEUE_SIZE
from aisle.service.parts import Parts
from aisle.service.photos import Photos
from aisle.service.recorder import Recorder
from aisle.service.routes import alerts, batches, entrance, explain, feedback, model, predict
from aisle.service.shedding import SheddingMiddleware
from aisle.service.uploads import MAX_BODY_BYTES
from aisle.settings import Settings
from aisle.web.address import networks
from aisle.web.answers import answer_with_problems
from aisle.web.draining import Draining
from aisle.web.limits import Counter
from aisle.web.platform import answer_the_platform
from aisle.web.requests import RequestMiddleware
from aisle.web.routes import build_routes

PUBLIC = tuple(subject.router for subject in (entrance, predict, explain, batches, feedback, model))
"""What clients outside may reach; the others are for the machines beside the service."""
BACKLOG_SECONDS = 15.0
"""As often as Prometheus looks."""


def create_app(
    champion: Champion,
    engine: Engine,
    verifier: Verifier,
    settings: Settings,
    *,
    queue: BatchingQueue | None = None,
    clock: Clock = utc_now,
) -> FastAPI:
    """The application around a model that serves and a database that is up to date; it closes both.

    `queue`: where somebody else makes the batches.
    """
    queue = queue or BatchingQueue(
        champion,
        size=settings.queue_size,
        batch=settings.batch_size,
        seconds=settings.predict_timeout_seconds,
        threads=champion.predictor.threads,
    )
    QUEUE_SIZE.set(settings.queue_size)
    keep, photo_bytes = timedelta(days=settings.predictions_keep_days), settings.review_photos_mib << 20
    journal = Journal(settings.records_path, most_bytes=settings.records_mib << 20)
    recorder = Recorder(engine, keep=keep, photo_bytes=photo_bytes, journal=journal, clock=clock)
    parts = Parts(
        champion=champion,
        store=BundleStore(settings.models_path),
        queue=queue,
        recorder=recorder,
        photos=Photos(queue, recorder, wanted=photo_bytes > 0, clock=clock),
        experiments=Experiments(champion, queue, recorder, engine, settings, clock=clock),
        explaining=Explaining(champion, seconds=settings.predict_timeout_seconds),
        intake=Intake.of(settings),
        engine=engine,
        handover=Handover(settings.token_service_url, networks(settings.trusted_proxies)),
        draining=Draining(settings.drain_seconds),
        clock=clock,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        parts.queue.start()
        parts.recorder.start()
        parts.photos.start()
        every = settings.champion_poll_seconds
        following = [
            asyncio.create_task(_follow(champion, verifier, every)),
            asyncio.create_task(_now_and_then(parts.experiments.follow, every)),
            asyncio.create_task(_now_and_then(lambda: tell_backlog(engine, clock), BACKLOG_SECONDS)),
        ]
        try:
            with parts.draining.on_sigterm():
                yield
        finally:
            for one in following:
                one.cancel()
            await asyncio.gather(*following, return_exceptions=True)
            await parts.experiments.stop()
            await parts.photos.stop()
            await parts.queue.stop()
            await run_in_threadpool(parts.explaining.stop)
            await run_in_threadpool(parts.recorder.stop)
            await parts.handover.close()
            champion.close()
            engine.dispose()

    app = FastAPI(title="aisle", version=__version__, lifespan=lifespan, redoc_url=None)
    app.state.parts = parts
    app.state.verifier = verifier
    rates, counter = RateLimits(settings.rate_limits), Counter(settings.redis_url, clock=clock)
    app.state.rates, app.state.counter = rates, counter
    app.add_middleware(SheddingMiddleware, queue=parts.queue)
    tables = dict.fromkeys((batches.PATH, BULK), settings.batch_max_mib << 20)
    by_path = {**tables, feedback.PATH: feedback.MAX_BODY_BYTES, alerts.PATH: alerts.MAX_BODY_BYTES}
    app.add_middleware(RequestMiddleware, max_body=MAX_BODY_BYTES, by_path=by_path, draining=parts.draining)
    answer_with_problems(app)
    answer_the_platform(app)
    for router in (*PUBLIC, alerts.router):
        app.include_router(router)
    app.mount(CONSOLE, create_console(ServiceDesk(parts, verifier, rates, counter, settings)))
    build_routes(app)
    return app


async def _follow(champion: Champion, verifier: Verifier, seconds: float) -> None:
    """Have the keys before the first token comes, then look for a new champion now and then."""
    await _whatever_happens(verifier.fetch)
    while True:
        await asyncio.sleep(seconds)
        await _whatever_happens(champion.follow)


async def _now_and_then(work: Callable[[], object], seconds: float) -> None:
    while True:
        await _whatever_happens(work)
        await asyncio.sleep(seconds)


async def _whatever_happens(work: Callable[[], object]) -> None:
    """Work, in a thread unless it is a coroutine; an error goes to the log and no further."""
    try:
        await (work() if iscoroutinefunction(work) else run_in_threadpool(work))
    except Exception as error:  # noqa: BLE001  the next round is to come
        get_logger(__name__).error("not followed", reason=type(error).__name__, exc_info=error)

"""The prediction service as a Bento: BentoML serves, makes the batches and packs; everything else is `aisle.service`.

    bentoml serve deploy.bentoml.service:Aisle        # in the repository; `make bento` packs it, see docs/bentoml.md

A request passes through aisle's own application, mounted here, and takes its place in the queue. From there the
product goes to `Aisle.classify`, where BentoML decides which products are computed together and when. That call
stays in this process, in JSON; from outside, BentoML's own routes are not there.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import bentoml
import httpx
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, TypeAdapter
from sqlalchemy import make_url
from starlette.types import ASGIApp, Receive, Scope, Send

from aisle.auth.keyset import fetch_keys
from aisle.auth.tokens import TokenPolicy, Verifier
from aisle.catalog import Candidate, Decision, ImageTraits, Prediction, Product
from aisle.errors import AisleError, ImageError, InputError
from aisle.logs import LogFile, get_logger, setup_logging
from aisle.model.predictor import Outcome, Predictor
from aisle.registry.bundles import BundleStore
from aisle.service.app import create_app
from aisle.service.batching import BatchingQueue, TooLate
from aisle.service.champion import Champion
from aisle.service.metrics import BATCH_SIZE, NOT_COMPUTED
from aisle.settings import Settings, get_settings, override
from aisle.store.engine import open_database
from aisle.store.migrate import migrate

settings = get_settings()
CLASSIFY = "/classify"
INNER_ROUTES = frozenset({CLASSIFY, "/schema.json"})


class Listing(BaseModel):
    """A product on its way into a batch."""

    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    title: str
    description: str
    image: bytes | None

    @classmethod
    def of(cls, product: Product) -> Listing:
        return cls(title=product.title, description=product.description, image=product.image)

    @property
    def product(self) -> Product:
        return Product(self.title, self.description, self.image)


class Ask(BaseModel):
    """What `Aisle.classify` takes, by name."""

    products: list[Listing]


class Answer(BaseModel):
    """A product's outcome on its way back: without candidates there was nothing to look at, or the model broke."""

    model_config = ConfigDict(frozen=True)

    candidates: tuple[Candidate, ...] = ()
    decision: Decision = Decision.REVIEW
    inputs: tuple[str, ...] = ()
    model_version: str = ""
    image_error: str | None = None
    image_traits: ImageTraits | None = None
    types_id: str = ""
    is_broken: bool = False

    @classmethod
    def of(cls, outcome: Outcome | Exception) -> Answer:
        if isinstance(outcome, Prediction):
            return cls(
                candidates=outcome.candidates,
                decision=outcome.decision,
                inputs=outcome.inputs,
                model_version=outcome.model_version,
                image_error=outcome.image_error and outcome.image_error.reason,
                image_traits=outcome.image_traits,
                types_id=outcome.types_id,
            )
        if isinstance(outcome, ImageError):
            return cls(image_error=outcome.reason)
        return cls(is_broken=not isinstance(outcome, InputError))

    @property
    def outcome(self) -> Outcome:
        """Raises RuntimeError for a product that broke the model."""
        if self.is_broken:
            raise RuntimeError("the model broke on this product; why is in the log")
        error = None if self.image_error is None else ImageError("cannot be used", reason=self.image_error)
        if not self.candidates:
            return error or InputError("there is nothing to classify")
        return Prediction(
            self.candidates, self.decision, self.inputs, self.model_version, error, self.image_traits, self.types_id
        )


_ANSWERS = TypeAdapter(list[Answer])


class Way:
    """ASGI: hands on to an application that is known once the service starts, and not yet when it is imported."""

    app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.app is None:
            raise RuntimeError("asked before the service has started")
        # The route by which a request came here is none of the application's.
        await self.app({name: value for name, value in scope.items() if name != "route"}, receive, send)


to_aisle, to_bentoml = Way(), Way()


class Gate:
    """ASGI: the routes that BentoML adds are for this process; anybody else is told that there is nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = to_bentoml.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_closed = scope["type"] == "http" and scope["path"] in INNER_ROUTES
        await (to_aisle if is_closed else self.app)(scope, receive, send)


class BentoQueue(BatchingQueue):
    """The queue of the prediction service: places as ever, and batches that BentoML makes.

    BentoML's own client for such calls is not used: it closes its session after every 100 of them, and all that are
    under way break off.
    """

    def __init__(self, champion: Champion) -> None:
        super().__init__(
            champion,
            size=settings.queue_size,
            batch=settings.batch_size,
            seconds=settings.predict_timeout_seconds,
        )
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(to_bentoml), base_url="http://aisle")

    def start(self) -> None:
        """BentoML starts what makes the batches."""

    async def stop(self) -> None:
        await self._client.aclose()
        await super().stop()

    async def predict(self, product: Product) -> Outcome:
        body = Ask(products=[Listing.of(product)]).model_dump_json()
        answer = await self._client.post(CLASSIFY, content=body, headers={"Content-Type": "application/json"})
        if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            NOT_COMPUTED.labels("too_late").inc()
            raise TooLate
        answer.raise_for_status()
        return _ANSWERS.validate_json(answer.content)[0].outcome


@bentoml.service(
    name="aisle_predict",  # not a module's: BentoML would import it instead of looking up the Bento of that name
    workers=settings.serve_workers,
    logging={"access": {"enabled": False}},  # aisle's own log has a line for each request
)
@bentoml.asgi_app(to_aisle)
class Aisle:
    """Puts a product into its type, from title, description and image."""

    def __init__(self) -> None:
        logging.getLogger().handlers.clear()  # BentoML's, which would say everything a second time
        setup_logging(LogFile.SERVING, settings.logs_path, level=settings.log_level)
        self._champion = Champion(_finder(settings), threads=settings.threads)
        keys = fetch_keys(f"{settings.token_service_url}/.well-known/jwks.json")
        self._app: FastAPI = create_app(
            self._champion,
            open_database(settings.database_url),
            Verifier(keys, TokenPolicy.of(settings)),
            settings,
            queue=BentoQueue(self._champion),
        )
        self._running = contextlib.AsyncExitStack()
        to_aisle.app = self._app

    @bentoml.api(
        route=CLASSIFY,
        batchable=True,
        max_batch_size=max(settings.batch_size, 2),  # one is no batch to BentoML
        max_latency_ms=int(settings.predict_timeout_seconds * 1000),
    )
    def classify(self, products: list[Listing]) -> list[Answer]:
        """One batch; BentoML calls it in a thread, one call at a time."""
        BATCH_SIZE.observe(len(products))
        with self._champion.lend() as predictor:
            return [Answer.of(one) for one in _outcomes(predictor, [one.product for one in products])]

    async def __is_ready__(self) -> bool:
        return not self._app.state.parts.draining.has_begun

    @bentoml.on_deployment
    @staticmethod
    def prepare() -> None:
        """Once, before the workers: what they would all fail over, or do at the same time."""
        try:
            here = _absolute(settings)
            _finder(here)()
            migrate(open_database(here.database_url))
        except AisleError as error:
            raise SystemExit(str(error)) from None

    @bentoml.on_startup
    async def start(self) -> None:
        await self._running.enter_async_context(self._app.router.lifespan_context(self._app))
        get_logger(__name__).info("serving", model_version=self._champion.predictor.version)

    @bentoml.on_shutdown
    async def stop(self) -> None:
        await self._running.aclose()


Aisle.add_asgi_middleware(Gate)


def _finder(settings: Settings) -> Callable[[], Path]:
    store = BundleStore(settings.models_path)
    return lambda: store.find(settings.serve_model)


def _outcomes(predictor: Predictor, products: list[Product]) -> list[Outcome | Exception]:
    try:
        return [*predictor.predict(products)]
    except Exception as error:  # noqa: BLE001  a product that breaks the model must not break its neighbours
        if len(products) > 1:
            return [one for product in products for one in _outcomes(predictor, [product])]
        get_logger(__name__).error("prediction failed", reason=type(error).__name__, exc_info=error)
        return [error]


def _absolute(settings: Settings) -> Settings:
    """The workers run in the Bento's own folder; what is relative is meant from where it is started."""
    paths = {name: getattr(settings, name).absolute() for name in ("models_path", "data_path", "logs_path")}
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        paths["database_url"] = str(url.set(database=str(Path(url.database).absolute())))
    return override(**paths)

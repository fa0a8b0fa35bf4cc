"""What the console asks for, answered by the functions behind the API's routes: the same limits, the same records."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from PIL import Image
from sqlalchemy import Engine

from aisle.auth.tokens import Identity, Verifier
from aisle.batch.locations import Locations
from aisle.batch.spool import Spool
from aisle.catalog import Prediction, ProductType, ProductTypes
from aisle.clock import Clock
from aisle.model.bundle import Bundle, label_of
from aisle.model.explain import Explanation
from aisle.registry.bundles import BundleStore
from aisle.service.batches import Order, order_of
from aisle.service.handover import Handover
from aisle.service.limits import RateLimits, count_one
from aisle.service.parts import Parts
from aisle.service.routes import batches as batch_routes
from aisle.service.routes.explain import explained
from aisle.service.routes.feedback import corrected
from aisle.service.routes.predict import a_place, classified, usable
from aisle.service.uploads import MAX_CHARACTERS, Upload, read_product
from aisle.settings import Settings
from aisle.store.batches import Batch
from aisle.web.limits import Counter

JPEG_QUALITY = 80


@dataclass(frozen=True)
class ServiceDesk:
    """A `Desk` of the console."""

    parts: Parts
    verifier: Verifier
    rates: RateLimits
    counter: Counter
    settings: Settings

    @property
    def engine(self) -> Engine:
        return self.parts.engine

    @property
    def store(self) -> BundleStore:
        return self.parts.store

    @property
    def clock(self) -> Clock:
        return self.parts.clock

    @property
    def tokens(self) -> Handover:
        return self.parts.handover

    def champion(self) -> tuple[Bundle, datetime]:
        return self.parts.champion.predictor.bundle, self.parts.champion.since

    def types(self) -> Mapping[str, ProductType]:
        predictor = self.parts.champion.predictor
        types = predictor.bundle.types()
        return {code: label_of(types, code) for code in dict.fromkeys([*types, *predictor.classifier.codes])}

    @asynccontextmanager
    async def product(self, request: Request) -> AsyncIterator[Upload]:
        with a_place(self.parts):
            yield await read_product(request)

    async def classify(self, product: Upload, request: Request, who: Identity) -> tuple[Prediction, str]:
        await self._count(request, who, "predict")
        prediction, record = await classified(product, request, self.parts, who)
        return prediction, record.id

    async def preview(self, product: Upload, request: Request, who: Identity) -> Prediction:
        await self._count(request, who, "preview")
        return usable(await self.parts.queue.predict(product.product))

    async def explain(self, product: Upload, request: Request, who: Identity) -> tuple[Explanation, ProductTypes]:
        await self._count(request, who, "explain")
        return await explained(product, request, self.parts)

    async def picture(self, product: Upload) -> bytes | None:
        return await run_in_threadpool(self._picture, product)

    async def correct(self, prediction_id: str, code: str, request: Request, who: Identity) -> str:
        await self._count(request, who, "feedback")
        _, label = await run_in_threadpool(corrected, prediction_id, code, self.parts, who)
        return label

    @property
    def longest(self) -> Mapping[str, int]:
        return MAX_CHARACTERS

    @property
    def spool(self) -> Spool:
        return self.parts.intake.spool

    def quota(self, who: Identity) -> tuple[int, int] | None:
        quota = self.parts.intake.quotas.get(who.role)
        return None if quota is None else (quota.batches, quota.rows)

    async def send_batch(
        self, fields: Callable[[], Awaitable[Sequence[tuple[str, Any]]]], request: Request, who: Identity, key: str
    ) -> Batch:
        async def read(_: Request, folder: Path, locations: Locations) -> Order:
            return await order_of(await fields(), folder, locations)

        await self._count(request, who, "batches")
        batch, _ = await batch_routes.created(request, self.parts, who, key, read)
        return batch

    def batches(self, who: Identity, *, count: int, after: str) -> tuple[list[Batch], str, str | None]:
        found, older = batch_routes.listed(self.parts, who, count=count, after=after)
        return found, batch_routes.listed_before(self.parts, who, count=count, after=after), older

    def batch(self, batch_id: str, who: Identity) -> Batch:
        return batch_routes.found(self.parts, batch_id, who)

    def cancel_batch(self, batch_id: str, who: Identity) -> Batch:
        return batch_routes.cancelled(self.parts, batch_id, who)

    def delete_batch(self, batch_id: str, who: Identity) -> None:
        batch_routes.deleted(self.parts, batch_id, who)

    async def batch_results(
        self, batch_id: str, kind: str, *, partial: bool, request: Request, who: Identity
    ) -> Response:
        await self._count(request, who, "results")
        batch = await run_in_threadpool(self.batch, batch_id, who)
        chosen = batch_routes.ResultFormat(kind)
        return await run_in_threadpool(batch_routes.results_of, self.parts, batch, chosen, partial=partial)

    def batch_images(self, batch: Batch) -> Path | None:
        if batch.images is None:
            return None
        if batch.location is None:
            return self.spool.images(batch.id).path
        place = self.parts.intake.locations.place(batch.images)
        return None if place.is_s3 else place.path

    async def _count(self, request: Request, who: Identity, route: str) -> None:
        await count_one(request, who, route, self.rates, self.counter)

    def _picture(self, product: Upload) -> bytes | None:
        with self.parts.champion.lend() as predictor:
            if predictor.encoder is None or product.product.image is None:
                return None
            pixels, _ = predictor.encoder.decode(product.product.image)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=JPEG_QUALITY)
        return out.getvalue()

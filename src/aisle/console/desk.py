"""What the console asks of the service that serves its pages: it answers as its API does, by the same functions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from fastapi import Request, Response
from sqlalchemy import Engine

from aisle.auth.tokens import Identity, Verifier
from aisle.batch.spool import Spool
from aisle.catalog import Prediction, ProductType, ProductTypes
from aisle.clock import Clock
from aisle.model.bundle import Bundle
from aisle.model.explain import Explanation
from aisle.registry.bundles import BundleStore
from aisle.settings import Settings
from aisle.store.batches import Batch


class Answer(Protocol):
    """What an HTTP client gives back."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    def json(self) -> Any: ...


class TokenService(Protocol):
    async def ask(self, path: str, form: Mapping[str, str], request: Request) -> Answer:
        """Raises Refusal where it does not answer."""
        ...


class Desk(Protocol):
    """Whatever is refused is a Refusal, or Throttled."""

    @property
    def engine(self) -> Engine: ...
    @property
    def store(self) -> BundleStore: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def verifier(self) -> Verifier: ...
    @property
    def tokens(self) -> TokenService: ...

    def champion(self) -> tuple[Bundle, datetime]:
        """Who serves, and since when."""
        ...

    def types(self) -> Mapping[str, ProductType]:
        """What the champion may say."""
        ...

    def product(self, request: Request) -> AbstractAsyncContextManager[Any]:
        """The product in a form; while it is there, a place in the queue is held."""
        ...

    async def classify(self, product: Any, request: Request, who: Identity) -> tuple[Prediction, str]:
        """As POST /predict: counted, and on the record, under the id that comes with it."""
        ...

    async def preview(self, product: Any, request: Request, who: Identity) -> Prediction:
        """What the champion says, off the record: nobody has sent this product yet."""
        ...

    async def explain(self, product: Any, request: Request, who: Identity) -> tuple[Explanation, ProductTypes]:
        """As POST /explain."""
        ...

    async def picture(self, product: Any) -> bytes | None:
        """The image as a model sees it, a small square JPEG."""
        ...

    async def correct(self, prediction_id: str, code: str, request: Request, who: Identity) -> str:
        """As POST /feedback; what the type is called."""
        ...

    @property
    def longest(self) -> Mapping[str, int]:
        """So many characters each field of a product may have."""
        ...

    # Batches, as /batches has them: each user sees their own

    @property
    def spool(self) -> Spool: ...

    def quota(self, who: Identity) -> tuple[int, int] | None:
        """How many batches of them may be under way, and how many rows each may have; None: they may have none."""
        ...

    async def send_batch(
        self, fields: Callable[[], Awaitable[Sequence[tuple[str, Any]]]], request: Request, who: Identity, key: str
    ) -> Batch:
        """The batch that the `fields` of a form ask for, which are read once it is known that there may be one."""
        ...

    def batches(self, who: Identity, *, count: int, after: str) -> tuple[list[Batch], str, str | None]:
        """A page of them, the newest first; `after` of the page ahead of it, empty for the first; and of the next."""
        ...

    def batch(self, batch_id: str, who: Identity) -> Batch: ...
    def cancel_batch(self, batch_id: str, who: Identity) -> Batch: ...
    def delete_batch(self, batch_id: str, who: Identity) -> None: ...

    async def batch_results(
        self, batch_id: str, kind: str, *, partial: bool, request: Request, who: Identity
    ) -> Response:
        """The result as `csv`, `ndjson` or `parquet`."""
        ...

    def batch_images(self, batch: Batch) -> Path | None:
        """The zip of its images, where it lies on this machine."""
        ...


def labels_of(desk: Desk) -> dict[str, str]:
    """What each type is called that the champion may say."""
    return {code: one.label for code, one in desk.types().items()}

"""BentoML with its adaptive batching: `bentoml serve benchmarks.rivals.servers.bento:Rival`."""

from __future__ import annotations

from typing import Any

import bentoml
from pydantic import BaseModel, ConfigDict

from aisle.catalog import Product
from benchmarks.rivals.servers.model import AT_ONCE, Model


class Listing(BaseModel):
    model_config = ConfigDict(val_json_bytes="base64")

    designation: str
    image: bytes


@bentoml.service(workers=1, traffic={"timeout": 120}, metrics={"enabled": False})
class Rival:
    def __init__(self) -> None:
        self._model = Model()

    @bentoml.api(batchable=True, max_batch_size=AT_ONCE, max_latency_ms=60_000)
    def predict(self, products: list[Listing]) -> list[dict[str, Any]]:
        return self._model.say([Product(one.designation, "", one.image) for one in products])

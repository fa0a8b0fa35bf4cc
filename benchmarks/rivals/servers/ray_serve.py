"""Ray Serve: `python -m benchmarks.rivals.servers.ray_serve`.

The replica itself listens (direct ingress), which spares a request the way through Ray's proxy; the variables of the
contender say where.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from aisle.catalog import Product
from benchmarks.rivals.servers.model import AT_ONCE, Model, product


@serve.deployment(num_replicas=1, max_ongoing_requests=128, ray_actor_options={"num_cpus": 1})
class Rival:
    def __init__(self) -> None:
        self._model = Model()

    @serve.batch(max_batch_size=AT_ONCE, batch_wait_timeout_s=0)
    async def _say(self, products: list[Product]) -> list[dict[str, Any]]:
        return self._model.say(products)

    async def __call__(self, request: Request) -> Any:
        return await self._say(product(await request.json()))


if __name__ == "__main__":
    stopped = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: stopped.set())
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": 0})
    serve.run(Rival.bind(), route_prefix="/predict")  # type: ignore[attr-defined]
    stopped.wait()
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()

"""Mosec with MessagePack and dynamic batches: `python -m benchmarks.rivals.servers.mosec_ --port PORT`."""

from __future__ import annotations

from typing import Any

from mosec import Server, Worker
from mosec.mixin import MsgpackMixin

from aisle.catalog import Product
from benchmarks.rivals.servers.model import AT_ONCE, Model


class Rival(MsgpackMixin, Worker):
    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return self.model.say([Product(one["designation"], "", one["image"]) for one in data])


if __name__ == "__main__":
    server = Server()
    server.append_worker(Rival, num=1, max_batch_size=AT_ONCE, max_wait_time=1)
    server.run()

"""LitServe: `python -m benchmarks.rivals.servers.lit PORT`."""

from __future__ import annotations

import sys
from typing import Any

import litserve

from aisle.catalog import Product
from benchmarks.rivals.servers.model import Model, product


class Rival(litserve.LitAPI):
    def setup(self, device: str) -> None:
        del device
        self.model = Model()

    def decode_request(self, request: dict[str, str]) -> Product:
        return product(request)

    def predict(self, x: Product) -> dict[str, Any]:
        return self.model.say([x])[0]

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    server = litserve.LitServer(Rival(), accelerator="cpu", workers_per_device=1, timeout=120)
    server.run(
        port=int(sys.argv[1]), host="127.0.0.1", num_api_servers=1, log_level="warning", generate_client_file=False,
        access_log=False,
    )  # fmt: skip

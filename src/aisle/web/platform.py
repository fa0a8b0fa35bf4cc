"""What the platform asks of every service: does it run, does it live, what does it measure. Never rate-limited."""

from __future__ import annotations

from fastapi import FastAPI, Response

from aisle.settings import get_settings
from aisle.web import metrics


def answer_the_platform(app: FastAPI) -> None:
    """`/status` for people, in the original project's words, `/livez`, and `/metrics` for Prometheus."""

    @app.get("/status", tags=["platform"])
    async def status() -> dict[str, str]:
        return {"status": "L'API fonctionne correctement"}

    @app.get("/livez", tags=["platform"])
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/metrics", tags=["platform"], response_class=Response)
    def read_metrics() -> Response:
        return Response(metrics.exposition(get_settings().prometheus_multiproc_dir), media_type=metrics.CONTENT_TYPE)

"""What the platform asks of every service: does it run, does it live, what does it measure. Never rate-limited."""

from __future__ import annotations

from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse

from aisle.settings import get_settings
from aisle.web import metrics
from aisle.web.answers import answered

WORKS = {"status": "L'API fonctionne correctement"}
ALIVE = {"status": "alive"}
_METRICS = answered('aisle_model{version="3f2a9c0d1b7e"} 1.0\n', media_type="text/plain")


def answer_the_platform(app: FastAPI) -> None:
    """`/status` for people, in the original project's words, `/livez`, and `/metrics` for Prometheus."""

    @app.get("/status", tags=["platform"], responses=answered(WORKS))
    async def status() -> dict[str, str]:
        return WORKS

    @app.get("/livez", tags=["platform"], responses=answered(ALIVE))
    async def livez() -> dict[str, str]:
        return ALIVE

    @app.get("/metrics", tags=["platform"], response_class=PlainTextResponse, responses=_METRICS)
    def read_metrics() -> Response:
        return Response(metrics.exposition(get_settings().prometheus_multiproc_dir), media_type=metrics.CONTENT_TYPE)

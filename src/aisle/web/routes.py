"""Routes that are there before anybody asks."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts


def build_routes(app: FastAPI) -> None:
    """Build those of included routers, which FastAPI puts off to the first request.

    That one would wait for them, and what else runs by then would feel it: FastAPI changes the process's filters of
    warnings for as long as it builds. Call it when nothing more is added.
    """
    for _ in iter_route_contexts(app.routes):
        pass

"""Every route of an application, so that a test of all routes misses none that is added."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts


def routes_of(app: FastAPI) -> set[tuple[str, str]]:
    """Method and path of each route, whether the OpenAPI document shows it or not."""
    return {
        (method, str(route.path))
        for route in iter_route_contexts(app.routes)
        for method in (route.methods or {"any"}) - {"HEAD"}  # GET without a body
    }

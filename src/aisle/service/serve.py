"""Serving a bundle over HTTP."""

from __future__ import annotations

from aisle.model.bundle import Bundle
from aisle.model.predictor import Predictor
from aisle.service.app import create_app
from aisle.settings import Settings
from aisle.web import serve_app


def serve(bundle: Bundle, settings: Settings) -> None:
    """Serve until the process is told to stop. Raises UsageError when the address is taken."""
    with Predictor(bundle, threads=settings.threads) as predictor:
        serve_app(
            create_app(predictor),
            host=settings.serve_host,
            port=settings.port,
            what="serving",
            port_setting="PORT",
            model_version=bundle.version,
        )

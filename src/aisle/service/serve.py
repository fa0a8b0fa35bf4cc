"""Starting the prediction service: the database, the keys' address, the model; then HTTP, in one process or more."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from fastapi import FastAPI

from aisle.auth.app import create_app as create_token_service
from aisle.auth.bootstrap import FirstAdmin, bootstrap_admin
from aisle.auth.keyset import fetch_keys
from aisle.auth.serve import open_accounts
from aisle.auth.tokens import TokenPolicy, Verifier
from aisle.errors import AisleError
from aisle.logs import LogFile, get_logger, setup_logging
from aisle.processes import follow_parent, give_back_memory, pass_over_what_is_there, take_turns_often
from aisle.registry.bundles import BundleStore
from aisle.service.app import create_app
from aisle.service.champion import Champion
from aisle.settings import Settings, get_settings, override
from aisle.store.engine import open_database
from aisle.store.migrate import migrate
from aisle.web.serving import Address, serve_app, serve_beside, serve_in_workers

TRY_AGAIN_SECONDS = 2.0


def serve(settings: Settings) -> None:
    """Serve until the process is told to stop.

    Raises UsageError when the address is taken, InputError and BundleError when there is no model to serve,
    ServiceMissing when the database does not answer.
    """
    address = Address(settings.serve_host, settings.port, "PORT", shared=settings.serve_reuse_port)
    if settings.serve_workers == 1:
        app = open_service(settings)
        version = app.state.parts.champion.predictor.version
        serve_app(app, address, drain_seconds=settings.drain_seconds, what="serving", model_version=version)
        return
    if not settings.redis_url:
        get_logger(__name__).warning(
            "each worker counts requests for itself", hint="REDIS_URL makes them count together."
        )
    migrate(open_database(settings.database_url))
    version = BundleStore(settings.models_path).find(settings.serve_model).name
    serve_in_workers(
        f"{__name__}:worker",
        address,
        workers=settings.serve_workers,
        drain_seconds=settings.drain_seconds,
        what="serving",
        model_version=version,
    )


def serve_with_tokens(settings: Settings, *, tell: Callable[[FirstAdmin], None]) -> None:
    """Serve, with a token service beside it unless `AUTH_URL` names one; `tell` of the first administrator.

    Raises as `serve` does.
    """
    if settings.auth_url:
        serve(settings)
        return
    engine = open_accounts(settings)
    first = bootstrap_admin(engine, settings)
    if first is not None:
        tell(first)
    # The address of whoever signs in comes from the prediction service, which runs here.
    trusting = settings.model_copy(update={"trusted_proxies": f"{settings.trusted_proxies},127.0.0.1,::1"})
    address = Address(settings.auth_host, settings.auth_port, "AUTH_PORT")
    with serve_beside(create_token_service(engine, trusting), address, what="serving tokens") as url:
        serve(override(auth_url=url))


def open_service(settings: Settings) -> FastAPI:
    """The application with everything that it needs; raises as `serve` does."""
    give_back_memory()
    take_turns_often()
    store = BundleStore(settings.models_path)
    champion = Champion(lambda: store.find(settings.serve_model), threads=settings.threads)
    engine = open_database(settings.database_url)
    migrate(engine)
    keys = fetch_keys(f"{settings.token_service_url}/.well-known/jwks.json")
    app = create_app(champion, engine, Verifier(keys, TokenPolicy.of(settings)), settings)
    pass_over_what_is_there()
    return app


def worker(*, sleep: Callable[[float], object] = time.sleep) -> FastAPI:
    """The application of one of several processes, which has only the environment to go by.

    Where it cannot serve, because the database is away just now, say, it says so in one line and ends; the first
    process starts another one. Hence the pause: a start takes seconds of a core.
    """
    follow_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))  # as if told to stop
    settings = get_settings()
    setup_logging(LogFile.SERVING, settings.logs_path, level=settings.log_level)
    try:
        return open_service(settings)
    except AisleError as error:
        get_logger(__name__).error("a worker cannot serve yet", reason=str(error))
        sleep(TRY_AGAIN_SECONDS)
        raise SystemExit(1) from None

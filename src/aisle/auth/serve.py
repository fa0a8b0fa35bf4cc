"""Starting the token service: the database brought up to date, a key to sign with, then HTTP."""

from __future__ import annotations

from sqlalchemy import Engine

from aisle.auth.app import create_app
from aisle.auth.bootstrap import bootstrap_admin
from aisle.auth.keys import KeyPolicy, KeyRing, ensure_key
from aisle.settings import Settings
from aisle.store.engine import open_database
from aisle.store.migrate import migrate
from aisle.web.serving import Address, serve_app


def open_accounts(settings: Settings) -> Engine:
    """The database, up to date and with a signing key that can be read.

    Raises ServiceMissing when the database does not answer, AisleError for a wrong passphrase.
    """
    engine = open_database(settings.database_url)
    migrate(engine)
    policy = KeyPolicy.of(settings)
    ensure_key(engine, policy)
    KeyRing(engine, passphrase=policy.passphrase).current()  # better no start than a service that signs nobody in
    return engine


def serve(settings: Settings) -> None:
    """Serve until the process is told to stop. Raises UsageError when the address is taken."""
    engine = open_accounts(settings)
    if settings.bootstrap_admin_password.get_secret_value():
        bootstrap_admin(engine, settings)
    address = Address(settings.auth_host, settings.auth_port, "AUTH_PORT")
    serve_app(create_app(engine, settings), address, drain_seconds=settings.drain_seconds, what="serving tokens")

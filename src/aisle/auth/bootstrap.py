"""The first administrator: from the settings, or with a random password that is shown once and kept in a file."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from aisle.auth.accounts import add_person
from aisle.clock import Clock, utc_now
from aisle.errors import UsageError
from aisle.files import write_private_text
from aisle.settings import Settings
from aisle.store import users
from aisle.store.engine import writing
from aisle.store.migrate import take_turns
from aisle.store.users import Role

_LOCK = 7_237_003
_WHO = "aisle bootstrap"


@dataclass(frozen=True)
class FirstAdmin:
    """`password` and `file` are set when the password was made up: show it once, it is nowhere else."""

    name: str
    password: str | None
    file: Path | None


def bootstrap_admin(engine: Engine, settings: Settings, *, clock: Clock = utc_now) -> FirstAdmin | None:
    """Make the first administrator where there is none; None where there is one already.

    The file is `DATA_PATH/admin-password`, for its owner only. Raises UsageError for a password without a name,
    InputError for one that is too short.
    """
    given = settings.bootstrap_admin_password.get_secret_value()
    if given and not settings.bootstrap_admin_user:
        raise UsageError("BOOTSTRAP_ADMIN_PASSWORD is set and BOOTSTRAP_ADMIN_USER is not", where="settings")
    name = settings.bootstrap_admin_user or "admin"
    with writing(engine) as connection:
        take_turns(connection, _LOCK)  # of two services that start at once, one makes the account
        if users.count_admins(connection):
            return None
        if given:
            add_person(connection, name, Role.ADMIN, given, who=_WHO, clock=clock)
            return FirstAdmin(name, None, None)
        password = secrets.token_urlsafe(18)
        add_person(connection, name, Role.ADMIN, password, who=_WHO, clock=clock)
        # Before the account is committed: better a file without an account than an account without a password.
        file = settings.data_path / "admin-password"
        write_private_text(file, f"{name}\n{password}\n")
        return FirstAdmin(name, password, file)

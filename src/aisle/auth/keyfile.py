"""The API key of a service in a file, for a program that reads it there: Alertmanager, which reads no environment."""

from __future__ import annotations

import contextlib
from pathlib import Path

from aisle.auth.accounts import Accounts
from aisle.auth.login import NotLetIn, with_api_key
from aisle.files import atomic_path
from aisle.store import users
from aisle.store.engine import reading
from aisle.store.users import Role


def keep_key(accounts: Accounts, name: str, role: Role, file: Path) -> bool:
    """Have a key of the service `name` in `file`: whether one was written, or the one that is there is good.

    A service that is missing is added with `role`. The file's group may read it, since who makes the key and who uses
    it are two users. Raises UsageError for a name that is no active service.
    """
    known = file.read_text(encoding="utf-8").strip() if file.exists() else ""
    with contextlib.suppress(NotLetIn):
        if known:
            with_api_key(accounts.engine, known, name)
            return False
    with reading(accounts.engine) as connection:
        is_there = users.find(connection, name) is not None
    key = accounts.add_api_key(name) if is_there else accounts.add_service(name, role)[1]
    with atomic_path(file, private=True) as temporary:
        temporary.write_text(key, encoding="utf-8")
        temporary.chmod(0o640)
    return True

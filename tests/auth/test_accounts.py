"""Accounts and the first administrator: every change is in the audit trail, and somebody can always administrate."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from sqlalchemy import Engine
from tests.auth.conftest import PASSWORD, SetClock

from aisle.auth import login
from aisle.auth.accounts import Accounts
from aisle.auth.bootstrap import bootstrap_admin
from aisle.errors import CheckFailed, InputError, UsageError
from aisle.settings import Settings
from aisle.store import apikeys, audit, users
from aisle.store.engine import reading
from aisle.store.users import Role


def trail(engine: Engine) -> list[audit.Entry]:
    with reading(engine) as connection:
        return audit.entries(connection)


def test_each_change_is_one_entry_with_before_and_after(accounts: Accounts, engine: Engine) -> None:
    accounts.set_role("bob", Role.REVIEWER)
    accounts.set_role("bob", Role.REVIEWER)
    accounts.disable("bob")
    accounts.disable("bob")
    entries = [(one.what, one.subject, one.before, one.after) for one in trail(engine)]
    assert entries == [
        ("user.add", "anne", None, {"kind": "person", "role": "admin"}),
        ("user.add", "bob", None, {"kind": "person", "role": "client"}),
        ("user.role", "bob", {"role": "client"}, {"role": "reviewer"}),
        ("user.disable", "bob", {"active": True}, {"active": False}),
    ]


def test_nothing_secret_is_in_the_audit_trail_or_the_tables(accounts: Accounts, engine: Engine) -> None:
    _, key = accounts.add_service("robot", Role.CLIENT)
    with reading(engine) as connection:
        [stored] = apikeys.of_user(connection, "robot")
        hashed = users.get(connection, "anne").password_hash
    secret = key.removeprefix(stored.prefix)
    assert secret not in repr(stored)
    assert PASSWORD not in str(hashed)
    told = repr(trail(engine)) + repr(accounts.overview())
    assert stored.prefix in told
    for hidden in (secret, stored.key_hash, str(hashed), PASSWORD):
        assert hidden not in told


def test_the_last_administrator_stays(accounts: Accounts) -> None:
    with pytest.raises(CheckFailed, match="last administrator"):
        accounts.disable("anne")
    with pytest.raises(CheckFailed, match="last administrator"):
        accounts.set_role("anne", Role.CLIENT)
    accounts.set_role("bob", Role.ADMIN)
    accounts.disable("anne")


@pytest.mark.parametrize("name", ["", " ", "a b", "-x", "a/b", "x" * 65, "é", "a\n", "a\x00"])
def test_a_bad_name_is_refused_in_one_line(accounts: Accounts, name: str) -> None:
    with pytest.raises(InputError, match="name"):
        accounts.add_person(name, Role.CLIENT, PASSWORD)


def test_what_is_not_there_or_not_a_service_is_refused(accounts: Accounts) -> None:
    for change in (accounts.disable, accounts.add_api_key):
        with pytest.raises(UsageError, match="nobody"):
            change("nobody")
    with pytest.raises(UsageError, match="service"):
        accounts.add_api_key("bob")
    accounts.add_service("robot", Role.CLIENT)
    with pytest.raises(UsageError, match="robot"):
        accounts.revoke_api_key("robot", "aisle_00000000")


def test_the_first_administrator_comes_from_the_settings(engine: Engine, tmp_path: Path) -> None:
    settings = Settings(bootstrap_admin_user="chief", bootstrap_admin_password=PASSWORD)
    first = bootstrap_admin(engine, settings)
    assert first is not None
    assert (first.name, first.password, first.file) == ("chief", None, None)
    assert login.with_password(engine, "chief", PASSWORD).role is Role.ADMIN
    assert not (tmp_path / "data" / "admin-password").exists()


def test_or_has_a_random_password_in_a_file_that_only_the_owner_reads(engine: Engine, tmp_path: Path) -> None:
    first = bootstrap_admin(engine, Settings())
    assert first is not None
    assert first.password is not None
    file = tmp_path / "data" / "admin-password"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().split() == ["admin", first.password]
    assert login.with_password(engine, "admin", first.password).role is Role.ADMIN
    assert len(first.password) >= 20


def test_there_is_no_second_first_administrator(engine: Engine, accounts: Accounts, tmp_path: Path) -> None:
    settings = Settings(bootstrap_admin_user="chief", bootstrap_admin_password=PASSWORD)
    assert bootstrap_admin(engine, settings) is None
    assert bootstrap_admin(engine, Settings()) is None
    assert not (tmp_path / "data").exists()


def test_no_password_is_guessable_by_default(engine: Engine, clock: SetClock) -> None:
    with pytest.raises(UsageError, match="BOOTSTRAP_ADMIN_USER"):
        bootstrap_admin(engine, Settings(bootstrap_admin_password=PASSWORD))
    with pytest.raises(InputError, match="characters"):
        bootstrap_admin(engine, Settings(bootstrap_admin_user="chief", bootstrap_admin_password="admin"))
    assert trail(engine) == []


def test_secret_settings_do_not_show() -> None:
    shown = repr(Settings(bootstrap_admin_password=PASSWORD, signing_key_passphrase=PASSWORD))
    assert PASSWORD not in shown

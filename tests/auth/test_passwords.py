"""Passwords: what is accepted, what is upgraded, and that nobody learns who exists."""

from __future__ import annotations

from typing import Any

import bcrypt
import pytest
from argon2 import PasswordHasher
from argon2.low_level import Type
from sqlalchemy import Engine

from aisle.auth import login, passwords
from aisle.auth.accounts import Accounts
from aisle.auth.login import NotLetIn
from aisle.auth.passwords import check_password, hash_password
from aisle.errors import InputError
from aisle.store import users
from aisle.store.engine import reading, writing

PASSWORD = "correct horse battery"


def test_a_hash_is_argon2id_with_the_stated_cost() -> None:
    assert hash_password(PASSWORD).startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.parametrize("password", ["", "too short", "x" * 257])
def test_a_password_has_a_sane_length(password: str) -> None:
    with pytest.raises(InputError, match="characters"):
        hash_password(password)


def test_the_right_password_is_right_and_another_is_not() -> None:
    stored = hash_password(PASSWORD)
    assert check_password(PASSWORD, stored).is_right
    assert check_password(PASSWORD, stored).new_hash is None
    for wrong in ("", "x", PASSWORD + "x", PASSWORD.upper(), "x" * 100_000):
        assert not check_password(wrong, stored).is_right


@pytest.mark.parametrize(
    "stored",
    [
        bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode(),
        PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, type=Type.ID).hash(PASSWORD),
    ],
    ids=["bcrypt", "a cheaper argon2"],
)
def test_a_hash_from_elsewhere_is_replaced_at_the_next_sign_in(
    accounts: Accounts, engine: Engine, stored: str
) -> None:
    with writing(engine) as connection:
        users.set_password_hash(connection, "bob", stored)
    with pytest.raises(NotLetIn):
        login.with_password(engine, "bob", "another password")
    assert login.with_password(engine, "bob", PASSWORD).name == "bob"
    with reading(engine) as connection:
        now = users.get(connection, "bob").password_hash
    assert now is not None
    assert now.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert login.with_password(engine, "bob", PASSWORD).name == "bob"


def test_a_password_longer_than_bcrypt_reads_is_wrong_and_no_error() -> None:
    stored = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    assert not check_password("x" * 73, stored).is_right


def test_a_hash_that_nobody_knows_lets_nobody_in() -> None:
    assert not check_password("", "").is_right
    assert not check_password(PASSWORD, "md5:1234").is_right


@pytest.mark.parametrize("name", ["bob", "disabled", "nobody", "robot", "not a name\x00"])
def test_each_sign_in_is_one_verification_whoever_asks(
    accounts: Accounts, engine: Engine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a sign-in is that of its verification, so every kind of refusal has exactly one."""
    from aisle.store.users import Role

    accounts.add_person("disabled", Role.CLIENT, PASSWORD)
    accounts.disable("disabled")
    accounts.add_service("robot", Role.CLIENT)
    passwords.warm_up()
    costs: list[str] = []
    verify = passwords._hasher.verify_and_update

    def counting(password: str, stored: str, **more: Any) -> tuple[bool, str | None]:
        costs.append(stored.split("$")[3])
        return verify(password, stored, **more)

    monkeypatch.setattr(passwords._hasher, "verify_and_update", counting)
    with pytest.raises(NotLetIn):
        login.with_password(engine, name, "another password")
    assert costs == ["m=19456,t=2,p=1"]

"""Passwords: Argon2id, and bcrypt hashes from elsewhere, which are replaced when their owner next signs in.

    outcome = check_password(password, stored_hash_or_None)

Whoever does not exist is checked against a dummy hash, so that the answer takes as long as for anybody else.
Parameters: 19 MiB, 2 passes, 1 lane (the OWASP password storage cheat sheet), about 20 ms.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import cache

from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from pwdlib.hashers.argon2 import Argon2Hasher
from pwdlib.hashers.bcrypt import BcryptHasher

from aisle.errors import InputError

MIN_LENGTH = 10
MAX_LENGTH = 256
# bcrypt reads no more, and its library refuses longer passwords instead of cutting them.
_BCRYPT_BYTES = 72

_hasher = PasswordHash((Argon2Hasher(time_cost=2, memory_cost=19_456, parallelism=1), BcryptHasher()))


@dataclass(frozen=True)
class Outcome:
    """`new_hash` is what to store instead of a hash that is no longer what we make."""

    is_right: bool
    new_hash: str | None = None


def hash_password(password: str) -> str:
    """Raises InputError for a password that is too short or too long."""
    if len(password) < MIN_LENGTH:
        raise InputError(f"the password has fewer than {MIN_LENGTH} characters")
    if len(password) > MAX_LENGTH:
        raise InputError(f"the password has more than {MAX_LENGTH} characters")
    return _hasher.hash(password)


def check_password(password: str, stored: str | None) -> Outcome:
    """Always one verification, whoever asks; `stored` is None for an account that is not there."""
    usable = len(password) <= MAX_LENGTH and _fits(password, stored)
    try:
        right, new_hash = _hasher.verify_and_update(password if usable else "", stored or _dummy_hash())
    except UnknownHashError:
        right, new_hash = _hasher.verify(password[:MAX_LENGTH], _dummy_hash()), None
    if not (right and usable and stored):
        return Outcome(False)
    return Outcome(True, new_hash)


def warm_up() -> None:
    """Make the dummy hash, so that the first unknown name takes no longer than the next."""
    _dummy_hash()


def _fits(password: str, stored: str | None) -> bool:
    return not (stored or "").startswith("$2") or len(password.encode()) <= _BCRYPT_BYTES


@cache
def _dummy_hash() -> str:
    return _hasher.hash(secrets.token_urlsafe(32))

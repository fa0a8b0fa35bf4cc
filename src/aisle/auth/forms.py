"""What a sign-in sends and gets."""

from __future__ import annotations

import base64
import binascii
from typing import Literal
from urllib.parse import unquote_plus

from pydantic import BaseModel, ConfigDict, Field

A_TOKEN = {
    "access_token": "eyJhbGciOiJFZERTQSIs…",
    "token_type": "bearer",
    "expires_in": 900,
    "refresh_token": "6f1d2c3e4f9b1c0c…",
}
"""An example for the document; nobody's."""


class SignIn(BaseModel):
    """OAuth2's password form; with `grant_type=client_credentials`, a service's API key as `client_secret`.

    A service may say who it is by HTTP Basic instead, its name as the user and the key as the password.
    """

    model_config = ConfigDict(extra="ignore")

    grant_type: Literal["password", "client_credentials"] = "password"
    username: str = Field("", max_length=200)
    password: str = Field("", max_length=1000, json_schema_extra={"format": "password"})
    client_id: str = Field("", max_length=200, description="The service's name; it may be left out.")
    client_secret: str = Field("", max_length=200, json_schema_extra={"format": "password"})


def basic_credentials(authorization: str) -> tuple[str, str] | None:
    """Name and secret of an `Authorization: Basic …`, each encoded once more (RFC 6749, 2.3.1); None for another one.

    What cannot be decoded is nobody's name, and no key.

    >>> basic_credentials("Basic cm9ib3Q6YSUyQmI=")
    ('robot', 'a+b')
    """
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return unquote_plus(name), unquote_plus(secret)


class Renewal(BaseModel):
    refresh_token: str = Field(min_length=1, max_length=200)


class Revocation(BaseModel):
    token: str = Field(min_length=1, max_length=5000, description="A refresh token: its session ends.")


class TokenAnswer(BaseModel):
    """`expires_in` is in seconds. A service gets no refresh token: it has its key."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    expires_in: int
    refresh_token: str | None = None


class Me(BaseModel):
    name: str
    kind: str
    role: str

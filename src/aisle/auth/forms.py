"""What a sign-in sends and gets."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

A_TOKEN = {
    "access_token": "eyJhbGciOiJFZERTQSIs…",
    "token_type": "bearer",
    "expires_in": 900,
    "refresh_token": "6f1d2c3e4f9b1c0c…",
}
"""An example for the document; nobody's."""


class SignIn(BaseModel):
    """OAuth2's password form; with `grant_type=client_credentials`, a service's API key as `client_secret`."""

    model_config = ConfigDict(extra="ignore")

    grant_type: Literal["password", "client_credentials"] = "password"
    username: str = Field("", max_length=200)
    password: str = Field("", max_length=1000, json_schema_extra={"format": "password"})
    client_secret: str = Field("", max_length=200, json_schema_extra={"format": "password"})


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

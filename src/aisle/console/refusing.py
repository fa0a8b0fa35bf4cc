"""A refusal in the words of the pages: the API's own sentence names fields, routes and options of a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from aisle.console.rendering import Speech
from aisle.web.problems import Refusal

FIELDS: Mapping[str, str] = {
    "designation": "classify.designation",
    "description": "classify.description",
    "image": "classify.image",
    "type": "models.type",
    "reason": "models.reason",
    "version": "models.version",
    "username": "username",
    "password": "password",
    "location": "bulk.location.table",
    "images": "bulk.location.images",
}
"""What the pages call what the forms send."""


def in_words(speech: Speech, refusal: Refusal) -> str | Markup:
    """The pages' own words for it where they have some, in the reader's language; else those of the API."""
    key = f"refused.{refusal.problem.name.lower()}"
    if not speech.says(key):
        return refusal.problem.detail(speech.language, refusal.details)
    shown = {name: _SHOWN.get(name, _plain)(speech, value) for name, value in refusal.details.items()}
    return speech(key, **shown)


def _plain(speech: Speech, value: Any) -> str:
    return speech.number(value) if isinstance(value, int) else str(value)


def _field(speech: Speech, value: Any) -> str:
    return str(speech(FIELDS[value])) if value in FIELDS else str(value)


def _roles(speech: Speech, value: Any) -> str:
    named = (one.strip() for one in str(value).split(","))
    return ", ".join(str(speech(f"role.{one}")) if speech.says(f"role.{one}") else one for one in named)


_SHOWN: Mapping[str, Callable[[Speech, Any], str]] = {"field": _field, "role": _roles, "needed": _roles}

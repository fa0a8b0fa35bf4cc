"""Which language a text is in: an estimate, by py3langid (M. Lui and T. Baldwin, langid.py, 2012)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from aisle.inputs.text import clean

LANGUAGES = ("fr", "en", "de", "es", "it", "nl", "pt")
UNCLEAR = "unclear"
LEAST_SURE = 0.5
"""A text whose likeliest language has a lower probability than this counts as unclear."""


def languages_of(texts: Iterable[str]) -> list[str]:
    """The language of each text, `unclear` where none is likely, "" for an empty text."""
    identifier = _identifier()
    return [_language(identifier, clean(text)) for text in texts]


def _language(identifier: Any, text: str) -> str:
    if not text:
        return ""
    language, probability = identifier.classify(text)
    return str(language) if probability >= LEAST_SURE else UNCLEAR


@cache
def _identifier() -> Any:
    from py3langid import langid  # noqa: PLC0415  takes long to load, and is only needed here

    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    return identifier

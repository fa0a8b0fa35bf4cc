"""Texts of merchants for people to look at: characters that would turn, hide or break them are named instead."""

from __future__ import annotations

import re

_NOT_PRINTED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def excerpt(text: str | None, length: int = 160) -> str:
    """The start of a merchant's text.

    >>> excerpt("abc\\u202edef", 5)
    'abc‹U+202E›d…'
    """
    text = text or ""
    shown = _NOT_PRINTED.sub(lambda found: f"‹U+{ord(found[0]):04X}›", text[:length])
    return shown + "…" if len(text) > length else shown


def no_formula(value: object) -> object:
    """A cell that no spreadsheet computes, whatever a merchant wrote.

    >>> no_formula("=1+1")
    "'=1+1"
    """
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value

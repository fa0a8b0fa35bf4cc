"""Cleaning of a merchant's text: lightly, so that accents, numbers and the order of words stay.

>>> clean("Livre d&amp;eacute;coration<br/>  30&nbsp;x&nbsp;40")
'Livre décoration 30 x 40'
"""

from __future__ import annotations

import html
import re
import unicodedata

import ftfy

MAX_CHARACTERS = 20_000
"""What is longer is cut: no type is decided past it, and the time for one product stays bounded."""

_MAX_PASSES = 20  # a text escaped more often than that is no merchant's
_TAG = re.compile(r"<(?:/?[a-zA-Z][^<>]*|[!?][^<>]*)>")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffd]+")
_INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]+")  # within words, too
_SPACES = re.compile(r"\s+")
# What UTF-8 looks like when it was read as Latin-1 or Windows-1252: a cheap sieve before ftfy's careful look.
_MOJIBAKE = re.compile("[ÂÃâÅÄÐÑ][\u0080-\u00bf\u0152-\u0178\u2013-\u203a\u20ac\u2122]")
_NEEDS_ANOTHER_PASS = re.compile("[&<]")


def clean(text: str | None) -> str:
    """Return `text` without markup, entities (escaped twice too), mojibake, control characters and spare space.

    The result is in Unicode normal form C, at most `MAX_CHARACTERS` long and without line breaks; None gives "".
    Cleaning what is clean changes nothing.
    """
    if not text:
        return ""
    text = text[: 4 * MAX_CHARACTERS]
    for _ in range(_MAX_PASSES):
        before = text
        text = _clean_once(text)
        if text == before or not _NEEDS_ANOTHER_PASS.search(text):
            break
    return text[:MAX_CHARACTERS].rstrip()


def _clean_once(text: str) -> str:
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _TAG.sub(" ", _without_comments(text))
    if _MOJIBAKE.search(text):
        text = ftfy.fix_encoding(text)
    text = unicodedata.normalize("NFC", _CONTROL.sub(" ", _INVISIBLE.sub("", text)))
    return _SPACES.sub(" ", text).strip()


def _without_comments(text: str) -> str:
    """By searching, in one pass: a pattern would look for the end again from every beginning."""
    parts, end = [], 0
    while (start := text.find("<!--", end)) >= 0 and (close := text.find("-->", start + 4)) >= 0:
        parts.append(text[end:start])
        end = close + 3
    return " ".join([*parts, text[end:]])


def title_key(title: str) -> str:
    """The form in which two titles count as the same: letters and digits only, without accents or case."""
    decomposed = unicodedata.normalize("NFKD", title.casefold())
    return " ".join(re.findall(r"[^\W_]+", "".join(c for c in decomposed if not unicodedata.combining(c))))

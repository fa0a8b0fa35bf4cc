"""Templates to pages: every value is escaped, every word of ours comes from `words.toml`, in the reader's language.

A static file has the hash of its content in its name, so that a browser may keep it for good.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from aisle.excerpts import excerpt
from aisle.web.problems import Language

HERE = Path(__file__).parent
MEDIA_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
LONGEST = 20_000
"""Characters of a merchant's text that a page shows."""
_NO_BREAK = "\u00a0"


@dataclass(frozen=True)
class StaticFile:
    content: bytes
    media_type: str


@cache
def static_files() -> Mapping[str, StaticFile]:
    """By the name that pages use: `console.3f2a9c0d1b7e.css`."""
    found = {}
    for path in sorted((HERE / "static").iterdir()):
        content = path.read_bytes()
        name = f"{path.stem}.{hashlib.sha256(content).hexdigest()[:12]}{path.suffix}"
        found[name] = StaticFile(content, MEDIA_TYPES[path.suffix])
    return found


@cache
def words() -> Mapping[str, Mapping[Language, str]]:
    """What the console says, by key and language."""
    return tomllib.loads((HERE / "words.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Speech:
    """One language, for the templates."""

    language: Language

    def __call__(self, key: str, **values: Any) -> str | Markup:
        """The words of a key. Values are escaped; `Markup` among them stays what it is."""
        text = words()[key][self.language]
        return escape(text).format(**values) if values else text

    def says(self, key: str) -> bool:
        return key in words()

    def percent(self, share: float, digits: int = 1) -> str:
        text = f"{100 * share:.{digits}f}"
        return f"{text.replace('.', ',')}{_NO_BREAK}%" if self.language == "fr" else f"{text}{_NO_BREAK}%"

    def share(self, cell: str) -> str:
        """A share in [0, 1] as a table has it, in percent; what is none stays away."""
        try:
            share = float(cell)
        except ValueError:
            return "–"
        return self.percent(share, 0) if 0 <= share <= 1 else "–"

    def signed(self, value: float, digits: int) -> str:
        return f"{'−' if value < 0 else '+' if value > 0 else '±'}{self.number(abs(value), digits)}"

    def number(self, value: float, digits: int = 0) -> str:
        text = f"{value:,.{digits}f}"
        return text.replace(",", "\u202f").replace(".", ",") if self.language == "fr" else text

    def duration(self, seconds: float) -> str:
        """In the two largest units: `1 h 05 min`, `2 min 30 s`, `12 s`."""
        minutes, rest = divmod(round(seconds), 60)
        hours, more = divmod(minutes, 60)
        if hours:
            return f"{self.number(hours)}{_NO_BREAK}h {more:02}{_NO_BREAK}min"
        return f"{minutes}{_NO_BREAK}min {rest:02}{_NO_BREAK}s" if minutes else f"{rest}{_NO_BREAK}s"


def render(template: str, speech: Speech, **context: Any) -> str:
    """A value that the template names and `context` lacks is an error."""
    return _environment().get_template(template).render(t=speech, language=speech.language, **context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"excerpt": excerpt, "moment": moment, "bar": bar}
    environment.globals["asset"] = _address
    return environment


def moment(at: datetime) -> Markup:
    """A time of day in UTC, for people and for programs."""
    shown = at.strftime("%Y-%m-%d %H:%M")
    return Markup('<time datetime="{}">{} UTC</time>').format(at.isoformat(timespec="seconds"), shown)


def bar(share: float, kind: str = "") -> Markup:
    """A share in [0, 1] as a bar. The width is an attribute of a shape: the policy lets no style into a page."""
    width = f"{100 * min(max(share, 0.0), 1.0):.2f}"
    return Markup(
        '<svg class="bar {}" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        '<rect width="{}" height="1"/></svg>'
    ).format(kind, width)


@cache
def _address(name: str) -> str:
    """Where a static file is, by the name that it has in its folder."""
    stem, _, suffix = name.rpartition(".")
    [found] = [one for one in static_files() if one.startswith(f"{stem}.") and one.endswith(f".{suffix}")]
    return f"/console/static/{found}"

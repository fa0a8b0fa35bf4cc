"""What the HTML reports share: a page that needs nothing but its own file, and plots that live inside it.

A page has no script, asks no host for anything and escapes every value; a policy in its head makes the browser
hold to that. Plots are SVG within the page, painted in the page's own colours, so that they follow its light and
dark scheme. Equal content gives equal bytes: no date, no random identifier.

`Palette` names colours for `draw`; each is a CSS variable of `templates/report.css`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from aisle.excerpts import excerpt
from aisle.files import write_text

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

TEMPLATES = Path(__file__).with_name("templates")
NO_BREAK = "\u00a0"


class Palette:
    """Stand-ins that matplotlib can draw with; in the page each becomes the variable of that name."""

    INK = "#1b1f24"
    MUTED = "#57606a"
    LINE = "#d8dee4"
    ACCENT = "#1d5fb4"
    RIGHT = "#86b6f0"
    WRONG = "#f3aa62"


_VARIABLES = {value: f"var(--{name.lower()})" for name, value in vars(Palette).items() if not name.startswith("_")}

_PLOT_STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",  # text stays text: sharp, selectable, in the page's font
    "svg.hashsalt": "aisle",
    "text.parse_math": False,  # a code with two dollar signs is no formula
    "font.size": 9,
    "text.color": Palette.INK,
    "axes.labelcolor": Palette.MUTED,
    "axes.edgecolor": Palette.LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": Palette.LINE,
    "grid.linewidth": 0.6,
    "xtick.color": Palette.LINE,
    "ytick.color": Palette.LINE,
    "xtick.labelcolor": Palette.MUTED,
    "ytick.labelcolor": Palette.MUTED,
}
_DRAWING = Lock()
"""matplotlib has one style for the whole process."""
# Glyphs are the browser's business; matplotlib only measures with its own font. It is silenced for good, and not
# around each plot: filters, too, are the process's, and setting them back undoes what another thread has just set.
warnings.filterwarnings("ignore", message="Glyph .* missing from font")

_SVG_BALLAST = re.compile(
    r'<metadata>.*?</metadata>|<style type="text/css">.*?</style>| xmlns(?::\w+)?="[^"]*"', re.DOTALL
)
_SVG_IDENTIFIER = re.compile(r'( id="|xlink:href="#|url\(#)')


def write_page(target: Path, template: str, **context: Any) -> None:
    """Render `templates/<template>` to the file `target`, whole or not at all."""
    write_text(target, render(template, **context))


def render(template: str, **context: Any) -> str:
    """Every value is escaped but `Markup`; a value that the template names and `context` lacks is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "percent": percent, "excerpt": excerpt}
    return environment.get_template(template).render(**context)


def count(value: int) -> str:
    """
    >>> count(12014)
    '12,014'
    """
    return f"{value:,}"


def percent(share: float, digits: int = 1) -> str:
    """A share in [0, 1] for people: `12.5 %`, with a space that does not break."""
    return f"{100 * share:.{digits}f}{NO_BREAK}%"


def draw(
    name: str,
    description: str,
    size: tuple[float, float],
    paint: Callable[[Figure], None],
    *,
    scale: float | None = None,
) -> Markup:
    """Let `paint` fill a figure of `size` inches and return it as SVG to stand in a page.

    `name` is unique on its page, `description` says in words what there is to see. The plot is as wide as the page
    lets it, or `scale` rem an inch.
    """
    buffer = StringIO()
    with _DRAWING, mpl.rc_context():
        mpl.rcdefaults()  # a matplotlibrc of the user's would give other bytes
        mpl.rcParams.update(_PLOT_STYLE)
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    style = f' style="width: {scale * size[0]:.1f}rem"' if scale else ""
    return _inline(buffer.getvalue(), name, f'role="img" aria-label="{escape(description)}"{style}')


def _inline(svg: str, name: str, attributes: str) -> Markup:
    svg = _SVG_BALLAST.sub("", svg[svg.index("<svg") :])
    svg = _SVG_IDENTIFIER.sub(rf"\g<1>{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    # The file's own width and height would fix the size; the view box alone lets the page choose.
    return Markup(re.sub(r'^<svg(?: (?:width|height)="[^"]*")*', lambda _: f"<svg {attributes}", svg))  # noqa: S704  escaped by matplotlib

"""docs/performance.md: what stands between two marks is written anew from the last results, the rest is by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import ROOT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE = ROOT / "docs" / "performance.md"
DOLLARS_A_CORE_HOUR = 0.0375
PRICE_OF = "a sixteenth of a general-purpose machine of 16 cores at $0.60, on demand, as in [scale.md](scale.md)"
Entry = Mapping[str, Any]


def latest(results: Path) -> dict[str, Entry]:
    """By name, the entry that was measured last."""
    found: dict[str, Entry] = {}
    for file in sorted(results.glob("*.json")):
        found |= {one["name"]: one for one in json.loads(file.read_text(encoding="utf-8"))}
    return found


def marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: written by the benchmarks -->", f"<!-- end of {name} -->"


def write_between(page: Path, name: str, lines: Sequence[str]) -> None:
    """Raises ValueError where the page has no such marks."""
    text = page.read_text(encoding="utf-8")
    begin, end = marks(name)
    if begin not in text or end not in text:
        raise ValueError(f"{page} has no place for {name}: it is between {begin} and {end}")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n\n" + "\n".join(lines) + f"\n{end}{after}", encoding="utf-8")


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def number(value: float) -> str:
    """Three significant digits, the thousands set apart; never with a power of ten, which is read wrongly."""
    return f"{float(f'{value:.3g}'):,.15g}"


def value(entry: Entry, name: str) -> str:
    """Empty where the entry has no such figure."""
    found = entry["figures"].get(name)
    return "" if found is None else number(found)


def with_spread(entry: Entry, name: str) -> str:
    """As `value`, with the lowest and the highest of what it is the median of."""
    low, high = entry.get("details", {}).get("spread", {}).get(name, (0, 0))
    return value(entry, name) + (f" [{number(low)}, {number(high)}]" if low < high else "")


def cost(core_seconds: float) -> str:
    """Dollars for so much of a core's time; of a core that is always busy."""
    return f"{core_seconds / 3600 * DOLLARS_A_CORE_HOUR:.5f}"


def verdict(entry: Entry, name: str) -> str:
    return "**missed**" if name in entry["missed"] else "met"


def measured_by(entry: Entry) -> str:
    machine = entry["machine"]
    arithmetic = f" ({machine['arithmetic']})" if machine.get("arithmetic") else ""
    return (
        f"{entry['date'][:10]}, commit {entry['commit']}, {machine['cores']} cores of {machine['cpu']}{arithmetic}, "
        f"Python {machine['python']}: `{entry['command']}`."
    )


@contextmanager
def picture(file: Path, size: tuple[float, float], panels: int = 1) -> Iterator[list[Axes]]:
    """To be drawn on, and written at the end: an SVG with its text as text. `size` in inches."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "aisle", "font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        yield list(figure.subplots(1, panels, squeeze=False)[0])
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, format="svg", metadata={"Date": None})

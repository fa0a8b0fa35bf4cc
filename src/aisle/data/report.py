"""The data report: what the contract found in a catalogue, as figures (JSON) and as a page (HTML).

report.json   every figure, with sorted keys
report.html   the same for people: one file, without script, that loads nothing
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aisle.catalog import ProductTypes
from aisle.data.describe import AGREEMENT_BINS, Counts, describe, text_lengths
from aisle.data.language import UNCLEAR
from aisle.files import write_json
from aisle.pages import Palette, draw, write_page

JSON_FILE = "report.json"
HTML_FILE = "report.html"

_CONTRACT = ("rows", "accepted", "quarantined", "reasons", "missing_types", "retired", "type_changes")
_LANGUAGE_NAMES = {
    "fr": "French",
    "en": "English",
    "de": "German",
    "es": "Spanish",
    "it": "Italian",
    "nl": "Dutch",
    "pt": "Portuguese",
    UNCLEAR: "Too short or too mixed to tell",
}
_DUPLICATE_NAMES = {
    "image_file": "Same image file",
    "image_look": "Same-looking image",
    "title": "Same title",
}
_PLOT_SIZE = (4.2, 2.5)
_DRAWN_SHARE = 0.99


def write_data_report(folder: Path, result: dict[str, Any], accepted: pl.DataFrame, types: ProductTypes) -> None:
    """Write both reports to `folder`.

    `result` is `Validated.as_dict()`; `accepted` holds the rows that passed, as `validate` writes them, and may
    be empty.
    """
    contract = {name: result[name] for name in _CONTRACT}
    figures = describe(accepted, types)
    write_json(folder / JSON_FILE, {"contract": contract, **figures})
    write_page(
        folder / HTML_FILE,
        "data_report.html",
        contract=contract,
        reasons=sorted(contract["reasons"].items(), key=lambda item: (-item[1], item[0])),
        figures=figures,
        types=types,
        by_size=sorted(figures["types"].items(), key=lambda item: -item[1]["rows"]),
        languages=_named_languages(figures["languages"]["shares"]),
        duplicates=[(_DUPLICATE_NAMES[name], found) for name, found in figures["duplicates"].items()],
        length_plots=_length_plots(accepted),
        agreement_plot=_agreement_plot(figures["agreement"]),
    )


def _named_languages(shares: dict[str, float]) -> list[tuple[str, float]]:
    """By falling share, the unclear ones last."""
    order = sorted(shares, key=lambda code: (code == UNCLEAR, -shares[code], code))
    return [(_LANGUAGE_NAMES[code], shares[code]) for code in order]


def _length_plots(accepted: pl.DataFrame) -> list[tuple[str, Markup, str]]:
    """Heading, plot and caption for titles and for descriptions, where there are any."""
    plots = []
    for name in ("title", "description"):
        lengths = text_lengths(accepted, name)
        if len(lengths):
            limit = int(np.quantile(lengths, _DRAWN_SHARE, method="higher"))
            beyond = int((lengths > limit).sum())
            caption = f"{name.capitalize()} lengths in characters."
            if beyond:
                caption += f" The longest {beyond:,}, beyond {limit:,} characters, are not drawn."
            plots.append((name, _length_plot(name, lengths[lengths <= limit]), caption))
    return plots


def _length_plot(name: str, lengths: Counts) -> Markup:
    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        bins = _bins(int(lengths.min()), int(lengths.max()))
        axes.hist(lengths, bins=bins, histtype="stepfilled", color=Palette.ACCENT)
        _count_axis(axes, "products")
        axes.set_xlabel("characters")
        axes.locator_params(axis="x", nbins=6)
        axes.xaxis.set_major_formatter("{x:,.0f}")

    return draw(f"{name}-lengths", f"Histogram of {name} lengths in characters", _PLOT_SIZE, paint)


def _bins(low: int, high: int) -> list[float]:
    """At most 40 bins of one whole number of characters each: others would fill unevenly."""
    width = max(1, -(-(high - low + 1) // 40))
    return [edge - 0.5 for edge in range(low, high + width + 1, width)]


def _agreement_plot(agreement: dict[str, Any]) -> Markup | None:
    if not agreement:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        centres = (np.arange(AGREEMENT_BINS) + 0.5) / AGREEMENT_BINS
        axes.bar(centres, agreement["bins"], width=0.92 / AGREEMENT_BINS, color=Palette.ACCENT)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter("{x:.1f}")
        _count_axis(axes, "products")
        axes.set_xlabel("label agreement")

    return draw("agreement", "Histogram of label agreement from 0 to 1", _PLOT_SIZE, paint)


def _count_axis(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="y", integer=True)
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)

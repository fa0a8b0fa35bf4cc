"""The plots of the evaluation report: confusion matrix, calibration, coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from aisle.excerpts import excerpt
from aisle.model.calibration import Array
from aisle.pages import Palette, draw
from aisle.training.evaluate import PROMISES, coverage_curve, reliability

Matrix = NDArray[np.intp]

_CELL = 0.29
_SMALL_CELL = 0.17
_MATRIX_SCALE = 7.0
_NUMBERS_UP_TO = 40
"""With more types than this the cells are too many for a number in each."""
_LEAST_NUMBER = 0.005
_CODE_LENGTH = 12
_CURVE_POINTS = 400
_CONFIDENCE_BINS = 20


def confusion_plot(counts: Matrix, rows: Sequence[str], columns: Sequence[str]) -> Markup:
    """A heat map of `counts` (true types x predicted types), each row in shares of its products."""
    numbers = max(counts.shape) <= _NUMBERS_UP_TO
    cell = _CELL if numbers else _SMALL_CELL
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        font = 6.5 if numbers else 4.5
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = Palette.RIGHT if rows[row] == columns[column] else Palette.WRONG
            share = float(shares[row, column])
            axes.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, color=colour, alpha=0.1 + 0.9 * share, linewidth=0)
            )
            if numbers and share >= _LEAST_NUMBER:
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=font)
        names = [f"{_short(code)} ({total:,})" for code, total in zip(rows, totals, strict=True)]
        _matrix_axes(axes, names, [_short(code) for code in columns])
        axes.tick_params(labelsize=font + 0.5)

    size = (max(cell * len(columns) + 1.4, 3.0), max(cell * len(rows) + 1.0, 2.0))
    description = "Heat map of true types by predicted types, in % of each true type"
    return draw("confusion", description, size, paint, scale=_MATRIX_SCALE)


def reliability_plot(probabilities: Array, targets: Matrix) -> Markup:
    """How often the model is right where it is so sure; below, how many products are so sure."""
    bins = reliability(probabilities, targets)
    counts, edges = np.histogram(probabilities.max(axis=1), bins=_CONFIDENCE_BINS, range=(0, 1))

    def paint(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 1], [0, 1], color=Palette.MUTED, linewidth=1, linestyle=(0, (3, 3)))
        confidence, right, _ = np.array(bins).T
        upper.plot(confidence, right, "o-", color=Palette.ACCENT, markersize=4, linewidth=1.2, clip_on=False)
        upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share right")
        _percent_axes(upper)
        lower.bar(edges[:-1], counts, width=np.diff(edges) * 0.9, align="edge", color=Palette.ACCENT)
        lower.set(xlabel="confidence", ylabel="products")
        lower.xaxis.set_major_formatter(_as_percent)
        lower.yaxis.set_major_formatter("{x:,.0f}")
        lower.locator_params(axis="y", nbins=3, integer=True)
        lower.grid(axis="y")

    return draw("reliability", "Share of right predictions by confidence", (4.2, 3.7), paint)


def coverage_plot(probabilities: Array, targets: Matrix) -> Markup:
    """The accuracy of the surest products, by how many are taken; promised accuracies as lines."""
    share, accuracy = coverage_curve(probabilities, targets)
    shown = np.unique(np.linspace(0, len(share) - 1, _CURVE_POINTS).astype(int))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for promise in PROMISES:
            axes.axhline(promise, color=Palette.MUTED, linewidth=0.7, linestyle=(0, (3, 3)))
        axes.plot(share[shown], accuracy[shown], color=Palette.ACCENT, linewidth=1.6)
        lowest = min(float(accuracy[shown].min()), PROMISES[0])
        axes.set(xlim=(0, 1), ylim=(lowest - 0.03, 1.01), xlabel="share of products accepted")
        axes.set_ylabel("accuracy among them")
        axes.xaxis.set_major_formatter(_as_percent)
        axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
        _percent_axes(axes)

    return draw("coverage", "Accuracy of the surest products by their share", (4.2, 3.7), paint)


def _matrix_axes(axes: Axes, rows: list[str], columns: list[str]) -> None:
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(np.arange(-0.5, len(columns)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(rows)), minor=True)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), aspect="equal")
    axes.set(xlabel="predicted type", ylabel="true type (products)")
    axes.grid(which="minor", linewidth=0.4)
    axes.tick_params(which="both", length=0)


def _percent_axes(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(_as_percent)
    axes.grid(axis="y")


def _as_percent(value: float, _position: Any = None) -> str:
    return f"{100 * value:.3g} %"


def _short(code: str) -> str:
    return excerpt(code, _CODE_LENGTH)

"""The plots of the drift report: each feature in the reference and in the window."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from aisle.catalog import ProductTypes
from aisle.excerpts import excerpt
from aisle.model.bundle import label_of
from aisle.model.reference import Array, Observations, Reference, Words
from aisle.pages import Palette, draw
from aisle.training.observe import PREDICTED

_SIZE = (4.2, 2.6)
_BINS = 24
_DRAWN = (0.005, 0.995)
"""Quantiles between which numbers are drawn: single extremes would leave no room for the rest."""
_NAMES_SHOWN = 12
_NAME_LENGTH = 28
_POINTS = 500

Shares = Sequence[tuple[str, float, float]]
"""A name, its share in the reference and in the window."""


def feature_plot(name: str, reference: Reference, window: Observations, types: ProductTypes) -> Markup | None:
    """The plot of a feature by its name; None where one of the two has nothing to draw."""
    samples = (reference.rows, window)
    if name == "image_embedding":
        return _embedding_plot(*(one.components[np.isfinite(one.components).all(axis=1)] for one in samples))
    if name.endswith("_missing"):
        before, after = (float(np.mean(_is_missing(one, name))) for one in samples)
        return _shares_plot(name, [("missing", before, after), ("there", 1 - before, 1 - after)])
    if name.endswith("_language") or name == PREDICTED:
        labels = {code: label_of(types, code).label for code in types} if name == PREDICTED else {}
        return _shares_plot(name, _named_shares(reference.rows.names[name], window.names[name], labels))
    if name.endswith("_words") and not name.endswith("_unknown_words"):
        part = name.removesuffix("_words")
        return _shares_plot(name, word_shares(reference.words[part], reference.rows.words[part], window.words[part]))
    return _number_plot(name, *(_numbers(one, name) for one in samples))


def word_shares(words: Words, reference: NDArray[np.bool_], window: NDArray[np.bool_]) -> Shares:
    """The frequent words that moved most, by share of texts."""
    before, after = (one.mean(axis=0) if len(one) else np.zeros(len(words.frequent)) for one in (reference, window))
    order = np.argsort(-np.abs(after - before), kind="stable")[:_NAMES_SHOWN]
    return [(words.frequent[column], float(before[column]), float(after[column])) for column in order]


def _is_missing(sample: Observations, name: str) -> NDArray[np.bool_]:
    if name == "image_missing":
        return np.less(sample.numbers["has_image"], 0.5)
    return np.isnan(sample.numbers[f"{name.removesuffix('_missing')}_length"])


def _numbers(sample: Observations, name: str) -> Array:
    """As `detection.features_of` compares them."""
    numbers: Mapping[str, Array] = sample.numbers
    width, height = numbers["width"], numbers["height"]
    values = {
        "image_size": np.maximum(width, height),
        "image_shape": width / height,
        "image_brightness": numbers["brightness"],
        "image_saturation": numbers["saturation"],
    }.get(name)
    if values is None:
        values = numbers[name.replace("unknown_words", "unknown")]
    return values[np.isfinite(values)]


def _named_shares(before: Sequence[str], after: Sequence[str], labels: Mapping[str, str]) -> Shares:
    """The most frequent names of either, and the others together."""
    shares = [_shares(before), _shares(after)]
    order = sorted({*shares[0], *shares[1]}, key=lambda name: (-max(one[name] for one in shares), name))
    rows = [(labels.get(name, name), shares[0][name], shares[1][name]) for name in order[:_NAMES_SHOWN]]
    rest = [sum(one[name] for name in order[_NAMES_SHOWN:]) for one in shares]
    return [*rows, *([("others", rest[0], rest[1])] if len(order) > _NAMES_SHOWN else [])]


def _shares(names: Sequence[str]) -> defaultdict[str, float]:
    counts = Counter(name for name in names if name)
    return defaultdict(float, {name: count / counts.total() for name, count in counts.items()})


def _shares_plot(name: str, shares: Shares) -> Markup | None:
    if not shares:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        places = np.arange(len(shares))
        for offset, column, colour, label in _samples():
            axes.barh(places + 0.2 * offset, [row[column] for row in shares], height=0.4, color=colour, label=label)
        axes.set_yticks(places, [excerpt(row[0], _NAME_LENGTH) for row in shares])
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter(_as_percent())
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        _legend(axes)

    return draw(f"drift-{name}", _description(name), (_SIZE[0], 0.9 + 0.22 * max(len(shares), 3)), paint)


def _samples() -> Iterator[tuple[int, int, str, str]]:
    """Where its bar lies, its column, its colour, its name."""
    yield -1, 1, Palette.RIGHT, "reference"
    yield 1, 2, Palette.WRONG, "window"


def _number_plot(name: str, before: Array, after: Array) -> Markup | None:
    if not len(before) or not len(after):
        return None
    low, high = (float(np.quantile(np.concatenate([before, after]), one)) for one in _DRAWN)
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    edges = np.linspace(low, high, _BINS + 1)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for values, colour, label in ((before, Palette.RIGHT, "reference"), (after, Palette.WRONG, "window")):
            counts, _ = np.histogram(np.clip(values, low, high), bins=edges)
            shares = counts / len(values)
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.45)
            axes.stairs(shares, edges, color=colour, linewidth=1.4, label=label)
        axes.yaxis.set_major_formatter(_as_percent())
        axes.set_ylabel("share of products")
        axes.set_xlim(low, high)
        axes.xaxis.set_major_formatter("{x:,.4g}")
        axes.locator_params(axis="x", nbins=6)
        axes.locator_params(axis="y", nbins=4)
        axes.grid(axis="y")
        _legend(axes)

    return draw(f"drift-{name}", _description(name), _SIZE, paint)


def _embedding_plot(before: Array, after: Array) -> Markup | None:
    """Products along the two components whose middle moved most, in spreads of the reference."""
    if not len(before) or not len(after) or before.shape[1] < 2:
        return None
    moved = np.abs(np.median(after, axis=0) - np.median(before, axis=0)) / np.maximum(before.std(axis=0), 1e-9)
    first, second = sorted(np.argsort(-moved, kind="stable")[:2].tolist())

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for values, colour, label in ((before, Palette.RIGHT, "reference"), (after, Palette.WRONG, "window")):
            shown = values[np.unique(np.linspace(0, len(values) - 1, _POINTS).astype(int))]
            axes.plot(shown[:, first], shown[:, second], ".", color=colour, markersize=3.5, label=label)
        axes.set(xlabel=f"component {first + 1}", ylabel=f"component {second + 1}")
        axes.set_xticks([])
        axes.set_yticks([])
        _legend(axes)

    return draw("drift-image_embedding", _description("image_embedding"), (_SIZE[0], 3.4), paint)


def _description(name: str) -> str:
    return f"{name.replace('_', ' ').capitalize()} in the reference and in the window"


def _as_percent() -> PercentFormatter:
    return PercentFormatter(xmax=1, symbol=" %")


def _legend(axes: Axes) -> None:
    axes.figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8, markerscale=2)

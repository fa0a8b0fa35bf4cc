"""The figures of an evaluation as people read them: their names and meanings, and a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aisle.catalog import ProductTypes

UNKNOWN = "unknown"
"""The key of `measure`'s figures for products of types that the model does not know."""
UNKNOWN_LABEL = "unknown to the model"
LABEL_WIDTH = 44


@dataclass(frozen=True, slots=True)
class Headline:
    """A figure of the whole evaluation: its key, how it is called, what it means, and whether it is a share."""

    key: str
    name: str
    meaning: str
    share: bool = True

    def shown(self, value: float) -> str:
        return f"{100 * value:.2f} %" if self.share else f"{value:.4f}"


HEADLINES = (
    Headline("accuracy", "Accuracy", "share of products whose first proposal is right"),
    Headline("weighted_f1", "Weighted F1", "mean of the types' F1, each type counted by its products"),
    Headline("macro_f1", "Macro F1", "mean of the types' F1, each type counted once"),
    Headline("top_3", "Top 3", "share of products whose type is among the first three proposals"),
    Headline("log_loss", "Log-loss", "how far the probabilities are from the truth; 0 is best", share=False),
    Headline(
        "calibration_error",
        "Calibration error",
        "mean gap between how sure the model is and how often it is right; 0 is best",
        share=False,
    ),
)


def format_table(figures: Mapping[str, Any], types: ProductTypes | None = None) -> str:
    """The figures of `measure`, and `left_out` and `latency_ms` where they are there, as plain text.

    `types` names the types beside their codes. No character of a label can move the terminal's cursor.
    """
    if not figures.get("rows"):
        return "No labelled product to measure on."
    parts = [list(_headline(figures)), list(_coverage(figures)), list(_latency(figures))]
    parts.append(list(_per_type(figures, types)))
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def format_decisions(decisions: Mapping[str, Mapping[str, float | None]]) -> str:
    lines = ["Decisions: what is accepted without a person at a promised accuracy, and how much of that is right"]
    for promise, one in sorted(decisions.items()):
        accuracy, coverage = one["accuracy"], one["coverage"] or 0
        reached = "" if accuracy is None else f"{100 * accuracy:>12.1f} % right"
        lines.append(f"  at {100 * float(promise):>3.0f} %{f'{100 * coverage:.1f} %':>21}{reached}")
    return "\n".join(lines)


def by_f1(figures: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The figures of each type, lowest F1 first: where there is most to gain."""
    return sorted(figures.get("per_type", {}).items(), key=lambda item: item[1]["f1"])


def _headline(figures: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'Products':<20}{figures['rows']:>10,}"
    if figures.get("left_out"):
        yield f"{'Left out':<20}{figures['left_out']:>10,}   nothing to look at"
    for one in HEADLINES:
        if one.key in figures:
            yield f"{one.name:<20}{one.shown(figures[one.key]):>10}"


def _coverage(figures: Mapping[str, Any]) -> Iterator[str]:
    for position, (promise, share) in enumerate(sorted(figures.get("coverage", {}).items())):
        if not position:
            yield "Coverage: the share of products, the surest first, that keeps an accuracy"
        yield f"  at {100 * float(promise):>3.0f} %{f'{100 * share:.1f} %':>21}"


def _latency(figures: Mapping[str, Any]) -> Iterator[str]:
    for position, (name, value) in enumerate(sorted(figures.get("latency_ms", {}).items())):
        if not position:
            yield "Latency of one product alone"
        yield f"  {name:<15}{f'{value:.2f} ms':>13}"


def _per_type(figures: Mapping[str, Any], types: ProductTypes | None) -> Iterator[str]:
    rows = by_f1(figures)
    codes = [printable(code) for code, _ in rows]
    width = max(map(len, ["code", *codes]))
    if rows:
        yield f"{'code':<{width}}  {'products':>8}  {'precision':>9}  {'recall':>6}  {'F1':>6}  type"
    for (code, one), printed in zip(rows, codes, strict=True):
        shown = [f"{100 * one[name]:.1f}" for name in ("precision", "recall", "f1")]
        yield (
            f"{printed:<{width}}  {one['rows']:>8,}  {shown[0]:>9}  {shown[1]:>6}  {shown[2]:>6}  "
            f"{printable(_label(code, types))}"
        ).rstrip()


def _label(code: str, types: ProductTypes | None) -> str:
    if types is not None and code in types:
        return types[code].label
    return UNKNOWN_LABEL if code == UNKNOWN else ""


def printable(text: str) -> str:
    cut = text if len(text) <= LABEL_WIDTH else text[: LABEL_WIDTH - 1] + "…"
    return "".join(character if character.isprintable() else "?" for character in cut)

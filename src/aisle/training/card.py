"""The model card of a bundle: what it is for, what it learnt from, what it is worth, in Markdown.

After M. Mitchell et al., Model Cards for Model Reporting, arXiv:1810.03993. The data that it speaks of has a sheet of
its own (`datasheet.py`). Nothing in it but what is under the sums, so that equal bundles have equal cards.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aisle.catalog import ProductTypes

WIDTH = 110
FIGURES = ("accuracy", "weighted_f1", "macro_f1", "log_loss", "calibration_error")
MEASURED_ON = {
    "all": "all that is there",
    "title": "title alone",
    "description": "description alone",
    "image": "image alone",
    "without_description": "products that have no description",
    "without_image": "products that have no image",
}


def model_card(
    recipe: str,
    types: ProductTypes,
    metrics: Mapping[str, Any],
    lineage: Mapping[str, Any],
    decision: Mapping[str, Any],
) -> str:
    parts = (
        [f"# Model card: {recipe}"],
        _purpose(types),
        _version(lineage),
        _learnt_from(lineage),
        _measured(metrics),
        _by_type(types, metrics),
        _calibration(metrics, decision),
        _limits(),
        _again(recipe, lineage),
    )
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def percent_of(rows: int, of: int) -> str:
    return f"{rows / of:.1%}" if of else "none"


def wrapped(text: str) -> str:
    """A paragraph, or an item of a list."""
    return textwrap.fill(
        text, WIDTH, subsequent_indent="  " if text.startswith("- ") else "", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> list[str]:
    return [_row(head), "|" + "---|" * len(head), *(_row(row) for row in rows)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _purpose(types: ProductTypes) -> list[str]:
    return [
        "## Purpose",
        "",
        wrapped(
            f"Puts a product of an online shop into one of its {len(types)} product types, from its title, "
            "description and image, as far as they are there, and says how sure it is. A product that it is not "
            "sure enough of is for a person to decide. It is not made to judge people, and not for other "
            "decisions about products, such as whether they may be sold."
        ),
    ]


def _version(lineage: Mapping[str, Any]) -> list[str]:
    return [
        "## Version",
        "",
        "Its version is a hash of this bundle's files: it names the folder, and stands in `manifest.json`.",
        "",
        f"- code `{lineage['code_revision']}`, seed {lineage['seed']}",
        "- computed by " + ", ".join(f"{name} {version}" for name, version in lineage["packages"].items()),
    ]


def _learnt_from(lineage: Mapping[str, Any]) -> list[str]:
    rows = lineage["rows"]
    return [
        "## Learnt from",
        "",
        wrapped(
            f"- {rows['train'] + rows['validation']} labelled products (data hash `{lineage['data_hash'][:12]}`): "
            f"{rows['train']} to learn from, {rows['validation']} to calibrate and to decide on"
        ),
        "- what they are like, and on which terms they are used: `DATA_SHEET.md`",
        f"- weights that the image encoder begins with: {lineage['image_encoder'] or 'none'}",
    ]


def _measured(metrics: Mapping[str, Any]) -> list[str]:
    def rows() -> Iterator[list[str]]:
        for name, figures in metrics.items():
            if isinstance(figures, Mapping) and "weighted_f1" in figures:
                ranges = figures.get("intervals", {})
                cells = [f"{figures[key]:.3f}{_range(ranges.get(key))}" for key in FIGURES]
                yield [MEASURED_ON.get(name, name), str(figures["rows"]), *cells]

    head = ("looks at", "rows", "accuracy", "weighted F1", "macro F1", "log-loss", "calibration error")
    return [
        "## Measured",
        "",
        wrapped(
            f"On the {metrics['side']} side of the catalogue's split by group, which nothing was fitted on. In "
            "brackets the 95 % interval, by the bootstrap over products."
        ),
        "",
        *table(head, rows()),
    ]


def _by_type(types: ProductTypes, metrics: Mapping[str, Any]) -> list[str]:
    per_type = metrics.get("all", {}).get("per_type")
    if not per_type:
        return []
    ranges = metrics["all"].get("intervals", {}).get("per_type", {})

    def rows() -> Iterator[list[str]]:
        for code, figures in per_type.items():
            label = types[code].label if code in types else code
            cells = [f"{figures['f1']:.3f}{_range(ranges.get(code))}"]
            cells += [f"{figures[name]:.3f}" for name in ("precision", "recall")]
            yield [code, label, str(figures["rows"]), *cells]

    return ["## By type", "", *table(("code", "type", "rows", "F1", "precision", "recall"), rows())]


def _calibration(metrics: Mapping[str, Any], decision: Mapping[str, Any]) -> list[str]:
    on = metrics.get("calibrated_on", {})
    thresholds = decision["thresholds"]

    def rows() -> Iterator[list[str]]:
        for promise, threshold in thresholds.items():
            given = "no threshold keeps it: a person looks at all" if threshold is None else f"{threshold:.4f}"
            covered = metrics.get("all", {}).get("coverage", {}).get(promise)
            here = "" if covered is None else f"{covered:.1%}"
            kept = " (the one that is kept)" if promise == decision["promise"] else ""
            yield [f"{float(promise):.0%}{kept}", given, here]

    return [
        "## Calibration and decisions",
        "",
        wrapped(
            f"Confidences are calibrated on the {on.get('side', 'validation')} side ({on.get('rows', 'its')} "
            "rows). Products are accepted without a person from a confidence on, so that of those the promised "
            "share is right. The coverage is what the best threshold would reach on the rows measured on, so an "
            "upper bound."
        ),
        "",
        *table(("promise", "accepted from a confidence of", "coverage at most"), rows()),
    ]


def _limits() -> list[str]:
    return [
        "## Limits",
        "",
        wrapped(
            "- It knows the types of its table and no other: a product of a new type gets one of the old ones, as "
            "a rule with low confidence."
        ),
        wrapped(
            "- Texts of another language than the catalogue's, and photos unlike product photos, are not covered "
            "by the figures."
        ),
        "- A type with few rows above has a wide interval: its figure says little.",
        "- Labels are the shop's: where they are wrong, it learns and is measured by what is wrong.",
        wrapped(
            "- The figures are of this catalogue at one time. `aisle drift` says whether what is served still "
            "looks like it."
        ),
    ]


def _again(recipe: str, lineage: Mapping[str, Any]) -> list[str]:
    return [
        "## The same again",
        "",
        wrapped(
            "The same data, code, configuration and seed give this bundle byte for byte, on the same kind of "
            "processor; `lineage.json` has them all:"
        ),
        "",
        "```console",
        f"$ git checkout {lineage['code_revision'].split('+')[0]}",
        f"$ aisle train --recipe {recipe}   # on the catalogue with the data hash above",
        "```",
    ]


def _range(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"

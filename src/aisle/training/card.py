"""The model card of a bundle: what it is for, what it learnt from, what it is worth, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aisle.catalog import ProductTypes


def model_card(recipe: str, types: ProductTypes, metrics: Mapping[str, Any], lineage: Mapping[str, Any]) -> str:
    rows = lineage["rows"]
    lines = [
        f"# Model card: {recipe}",
        "",
        f"Puts a product into one of {len(types)} product types, from its title, description and image, as far as",
        "they are there, and says how sure it is.",
        "",
        "## Learnt from",
        "",
        f"- {rows['train'] + rows['validation']} labelled products (data hash `{lineage['data_hash'][:12]}`)",
        f"- code `{lineage['code_revision']}`, seed {lineage['seed']}",
        "",
        "## Measured",
        "",
        f"On the {metrics['side']} side of the catalogue's split by group, which nothing was fitted on.",
        "",
        "| inputs | rows | accuracy | weighted F1 | macro F1 | log-loss | calibration error |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, figures in metrics.items():
        if isinstance(figures, Mapping) and "weighted_f1" in figures:
            cells = [figures[key] for key in ("accuracy", "weighted_f1", "macro_f1", "log_loss", "calibration_error")]
            lines.append(f"| {name} | {figures['rows']} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    if per_type := metrics.get("all", {}).get("per_type"):
        lines += ["", "## By type", "", "| code | type | rows | F1 |", "|---|---|---|---|"]
        for code, figures in per_type.items():
            label = types[code].label if code in types else code
            lines.append(f"| {code} | {label} | {figures['rows']} | {figures['f1']:.3f} |")
    lines += [
        "",
        "## Limits",
        "",
        "It knows the types of its table and no other: a product of a new type gets one of the old ones, as a rule",
        "with low confidence. Texts of another language than the catalogue's, and photos unlike product photos, are",
        "not covered by the figures above.",
    ]
    return "\n".join(lines) + "\n"

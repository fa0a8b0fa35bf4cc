"""What single stages tell beside their times: rows of a catalogue, and how good a trained bundle is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aisle.monitoring.stages import Figures

if TYPE_CHECKING:
    from aisle.data.validate import Validated

TRAINING_FIGURES = ("accuracy", "weighted_f1", "macro_f1", "calibration_error")


def tell_rows(figures: Figures, validated: Validated) -> None:
    """How many rows the data contract let pass."""
    meaning = "Rows of the last catalogue that was validated, by what the data contract said of them."
    counts = {"read": validated.rows, "accepted": validated.accepted, "quarantined": validated.quarantined}
    for kind, count in counts.items():
        figures.set("aisle_catalogue_rows", count, meaning, kind=kind)


def tell_training(figures: Figures, version: str, measured: Mapping[str, Any]) -> None:
    """How good a bundle is on the products that nothing of it was fitted on; nothing where there were none."""
    meaning = "What the last bundle that was trained reaches on the test side of its catalogue."
    for name in TRAINING_FIGURES:
        if name in measured:
            figures.set("aisle_training_figure", measured[name], meaning, figure=name, model=version)

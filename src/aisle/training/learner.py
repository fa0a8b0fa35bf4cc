"""What every recipe has: somebody who learns it from examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aisle.errors import CatalogError
from aisle.model.classifier import Classifier
from aisle.training.calibrate import Thresholds
from aisle.training.checkpoints import Checkpoints
from aisle.training.examples import Examples


@dataclass(frozen=True, slots=True)
class Learnt:
    """The models of a recipe after training, ready to be measured on rows that they have not seen.

    `before` is the classifier that had not seen the validation side either, where `classifier` has.
    `report` is about the validation side and belongs to the metrics, `history` has the metrics of each epoch of
    each stage, and `attachments` are files for people who go on with the training, by name: no part of the bundle.
    """

    classifier: Classifier
    thresholds: Thresholds
    encoder_graph: bytes | None
    before: Classifier | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    attachments: Mapping[str, bytes] = field(default_factory=dict)


class Learner(Protocol):
    def learn(self, examples: Examples, stages: Checkpoints) -> Learnt:
        """Fit, calibrate and choose; stages that were finished before are not done again.

        Raises CatalogError where there is nothing to learn from.
        """


def nothing_to_learn() -> CatalogError:
    return CatalogError(
        "there is nothing to learn from: fewer than two types with titles or images",
        hint="Add products of other types.",
    )

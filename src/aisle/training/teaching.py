"""Distillation: what a bundle says of the rows that another model learns from, beside their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aisle.data.split import Side
from aisle.logs import get_logger
from aisle.model.bundle import Bundle
from aisle.model.calibration import Array, log_softmax
from aisle.training.checkpoints import Checkpoints
from aisle.training.examples import Examples, Rows, in_parts
from aisle.training.recipes import Teaching

SMALLEST = 1e-12
TAUGHT_SIDES = (Side.TRAIN, Side.VALIDATION)


class Teacher:
    """Asked once for all rows that may be learnt from; of the test side it never hears."""

    def __init__(self, how: Teaching, examples: Examples, stages: Checkpoints) -> None:
        self._how, self._examples = how, examples
        self._said = stages.get("teacher", self._ask)["probabilities"]
        self._places = {key: place for place, key in enumerate(examples.keys(*TAUGHT_SIDES))}

    def taught(self, rows: Rows, *sides: Side) -> Rows:
        """The rows of these sides, with what is wanted of them."""
        places = [self._places[key] for key in self._examples.keys(*sides)]
        return replace(rows, wanted=wanted(self._said[places], rows.targets, self._how))

    def _ask(self) -> Mapping[str, NDArray[np.float32]]:
        bundle = Bundle.load(self._how.folder)
        classifier, examples = bundle.classifier(), self._examples
        rows = examples.rows(*TAUGHT_SIDES, graph=bundle.encoder_graph())
        get_logger(__name__).info("asking the teacher", version=bundle.version, rows=len(rows))
        said = np.concatenate(in_parts(lambda part: classifier.probabilities(part.inputs), rows, examples.threads))
        return {"probabilities": of_types(said, classifier.codes, examples.codes).astype(np.float32)}


def taught_by(teacher: Teacher | None, rows: Rows, *sides: Side) -> Rows:
    return rows if teacher is None else teacher.taught(rows, *sides)


def of_types(said: Array, theirs: tuple[str, ...], ours: tuple[str, ...]) -> Array:
    """n x our types from n x the teacher's: types that only one of them knows are left out."""
    found = np.zeros((len(said), len(ours)))
    known = [code for code in ours if code in theirs]
    found[:, [ours.index(code) for code in known]] = said[:, [theirs.index(code) for code in known]]
    return found


def wanted(said: NDArray[np.floating], targets: NDArray[np.intp], how: Teaching) -> Array:
    """n x types, each row sums to 1: the teacher's softened probabilities and the label, each for its share.

    Where the teacher has nothing to say, the label is everything.
    """
    labels = np.eye(said.shape[1])[targets]
    softened = np.exp(log_softmax(np.log(np.maximum(np.nan_to_num(said), SMALLEST)) / how.temperature))
    is_silent = ~(said.sum(axis=1, keepdims=True) > 0)  # NaN, or of none of these types
    mixed: Array = np.where(is_silent, labels, how.share * softened + (1 - how.share) * labels)
    return mixed

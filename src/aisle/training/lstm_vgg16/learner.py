"""The recipe `lstm-vgg16`, learnt: its text half, its image half, and the fusion that joins them.

The networks are fitted on the train side; when to stop, temperatures, fusion, thresholds, and whether VGG16 serves
with 8-bit integers, are decided by the validation side.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from aisle.data.split import Side
from aisle.model.calibration import Array
from aisle.model.classifier import IMAGE, TEXT, Classifier, Models
from aisle.model.fusion import Fusion
from aisle.training.calibrate import calibrated_scores, decision_thresholds
from aisle.training.checkpoints import Checkpoints
from aisle.training.examples import Examples, Rows
from aisle.training.learner import Learnt, nothing_to_learn
from aisle.training.lstm_vgg16.fusing import Fused, choose_fusion
from aisle.training.lstm_vgg16.image import LearntImage, learn_image
from aisle.training.lstm_vgg16.networks import classifier_network, concatenate_network
from aisle.training.lstm_vgg16.text import LearntText, learn_text
from aisle.training.recipes import LstmVgg16
from aisle.training.stacking import fit_weighted_sum

NAMES = {TEXT: "lstm_model", IMAGE: "vgg16_model"}
"""As the original project called its networks; both together are `concatenate_model`."""


class LstmVgg16Learner:
    def __init__(self, recipe: LstmVgg16) -> None:
        self._recipe = recipe

    def learn(self, examples: Examples, stages: Checkpoints) -> Learnt:
        recipe, types = self._recipe, len(examples.codes)
        _sum_in_one_order()
        train, held_out = (examples.rows(side, graph=None) for side in (Side.TRAIN, Side.VALIDATION))
        text = learn_text(recipe, train, held_out, types, stages)
        image = learn_image(recipe, examples, stages) if examples.prepared.images_path is not None else None
        if text is None and image is None:
            raise nothing_to_learn()
        models = Models({TEXT: text.model} if text else {}, image.head if image else None)
        held_out = examples.rows(Side.VALIDATION, graph=image.graph if image else None)
        temperatures, logs = calibrated_scores(models, held_out, types)
        fused = self._join(models, held_out, logs, stages)
        return Learnt(
            Classifier(examples.codes, models, temperatures, fused.fusion),
            decision_thresholds(fused.probabilities, held_out.targets, recipe.decisions, examples.codes),
            image.graph if image else None,
            report=_report(text, image, fused),
            history={**({TEXT: text.history} if text else {}), **(image.history if image else {})},
            attachments=_attachments(text, image, temperatures, fused),
        )

    def _join(self, models: Models, rows: Rows, logs: Mapping[str, Array], stages: Checkpoints) -> Fused:
        """The fusion, chosen by the rows that both models can look at; probabilities of all `rows`."""
        present = models.present(rows.inputs)
        both = np.flatnonzero(present.all(axis=1))
        targets, of_both = rows.targets[both], {name: one[both] for name, one in logs.items()}
        if len(models.names()) < 2 or len(both) < self._recipe.fusion.folds:
            summed: Fusion = fit_weighted_sum(of_both, targets)
            return Fused(summed, None, {}, np.exp(summed.log_probabilities(logs, present)))
        fused = choose_fusion(of_both, targets, self._recipe.fusion, stages, self._recipe.seed)
        probabilities = np.exp(fused.fusion.log_probabilities(logs, present))
        probabilities[both] = fused.probabilities
        return Fused(fused.fusion, fused.head, fused.report, probabilities)


def _report(text: LearntText | None, image: LearntImage | None, fused: Fused) -> dict[str, Any]:
    report: dict[str, Any] = {"fusion": fused.report} if fused.report else {}
    if text is not None:
        report["text_graph"] = {"parity": text.parity}
    if image is not None:
        report["image_encoder"] = image.report
    return report


def _attachments(
    text: LearntText | None, image: LearntImage | None, temperatures: Mapping[str, float], fused: Fused
) -> dict[str, bytes]:
    """The networks as Keras keeps them: each half, and both together."""
    networks = {name: one.network for name, one in ((TEXT, text), (IMAGE, image)) if one is not None}
    named = {
        NAMES[name]: classifier_network(network, temperatures[name], NAMES[name])
        for name, network in networks.items()
    }
    if len(networks) == len(NAMES):
        named["concatenate_model"] = concatenate_network(networks, temperatures, fused.fusion, fused.head)
    return {f"{name}.keras": _saved(network) for name, network in named.items()}


def _saved(network: keras.Model) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.keras"
        network.save(path)
        return path.read_bytes()


def _sum_in_one_order() -> None:
    """So that two trainings end with the same bytes."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # noqa: PLC0415  another backend does without

        tf.config.experimental.enable_op_determinism()

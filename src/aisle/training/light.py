"""The recipe `light`: linear models of title, description and image features.

The models are fitted on the train side; calibration, fusion and decision thresholds on the validation side; then
the models are fitted again on both sides, for what the catalogue has to teach.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aisle.data.split import Side
from aisle.logs import get_logger
from aisle.model.classifier import DESCRIPTION, IMAGE, TITLE, Classifier, Models
from aisle.model.fusion import fit_log_linear_pool
from aisle.model.image import DenseHead
from aisle.model.text import TextModel, TextVectorizer
from aisle.training import efficientnet
from aisle.training.calibrate import calibrated_scores, decision_thresholds
from aisle.training.checkpoints import Checkpoints
from aisle.training.examples import Examples, Rows
from aisle.training.heads import fit_image_head, fit_text_head
from aisle.training.learner import Learnt, nothing_to_learn
from aisle.training.recipes import Light


class LightLearner:
    def __init__(self, recipe: Light) -> None:
        self._recipe = recipe

    def learn(self, examples: Examples, stages: Checkpoints) -> Learnt:
        graph = None
        if examples.prepared.images_path is not None:
            graph = efficientnet.build_graph(efficientnet.read_checkpoint(efficientnet.checkpoint_path()))
            examples.encode(graph)
        fitting = _Fitting(self._recipe, len(examples.codes), stages, examples.threads)
        learnt = examples.rows(Side.TRAIN, graph=graph)
        held_out = examples.rows(Side.VALIDATION, graph=graph)
        names = _learnable(self._recipe, learnt)
        first = fitting.models(names, learnt, "train")

        temperatures, logs = calibrated_scores(first, held_out, len(examples.codes))
        fusion = fit_log_linear_pool(logs, first.present(held_out.inputs), held_out.targets)
        measured = Classifier(examples.codes, first, temperatures, fusion)
        thresholds = decision_thresholds(measured.probabilities(held_out.inputs), held_out, self._recipe.decisions)

        final = fitting.models(names, examples.rows(Side.TRAIN, Side.VALIDATION, graph=graph), "final")
        classifier = Classifier(examples.codes, final, temperatures, fusion)
        return Learnt(classifier, thresholds, graph if final.image is not None else None, before=measured)


class _Fitting:
    """Fits the models of a recipe, each a stage that a later run finds finished."""

    def __init__(self, recipe: Light, types: int, stages: Checkpoints, threads: int) -> None:
        self._recipe, self._types, self._stages, self._threads = recipe, types, stages, threads

    def models(self, names: Sequence[str], rows: Rows, stage: str) -> Models:
        get_logger(__name__).info("fitting models", on=stage, rows=len(rows), models=list(names))
        texts = {name: self._text(name, rows, stage) for name in names if name != IMAGE}
        return Models(texts, self._image(rows, stage) if IMAGE in names else None)

    def _text(self, name: str, rows: Rows, stage: str) -> TextModel:
        here = np.flatnonzero(rows.inputs.has(name))
        field = rows.inputs.field(name)
        texts = [field[row] for row in here.tolist()]
        how, seed, threads = self._recipe.text, self._recipe.seed, self._threads
        vectorizer = TextVectorizer(how.features).fit(texts)
        head = self._stages.get(
            f"{stage}-{name}",
            lambda: fit_text_head(
                vectorizer.transform(texts),
                rows.targets[here],
                rows.weights[here],
                self._types,
                how,
                seed,
                threads=threads,
            ),
        )
        return TextModel(vectorizer, head["weights"], head["bias"])

    def _image(self, rows: Rows, stage: str) -> DenseHead:
        here = np.flatnonzero(rows.inputs.has(IMAGE))
        features = np.stack([one for one in rows.inputs.features if one is not None])
        head = self._stages.get(
            f"{stage}-{IMAGE}",
            lambda: fit_image_head(features, rows.targets[here], rows.weights[here], self._types, self._recipe.image),
        )
        return DenseHead.from_arrays(head)


def _learnable(recipe: Light, rows: Rows) -> list[str]:
    """The inputs with enough rows to learn from. Raises CatalogError when there is none."""
    least = {TITLE: 2, DESCRIPTION: recipe.min_texts, IMAGE: 2}
    names = []
    for name, count in least.items():
        here = rows.inputs.has(name)
        if here.sum() >= count and len(np.unique(rows.targets[here])) > 1:
            names.append(name)
    if not names:
        raise nothing_to_learn()
    return names

"""The recipe `full`, learnt: its readers, its viewers, and the fusion that joins them.

The networks are fitted on the train side; which epoch stays, how much each network counts, temperatures, fusion and
thresholds are decided by the validation side.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from aisle.data.split import Side
from aisle.logs import get_logger
from aisle.model.blend import AnyTextModel
from aisle.model.classifier import TEXT, Classifier, Models
from aisle.training.calibrate import calibrated_scores, decision_thresholds, fit_blend
from aisle.training.checkpoints import Checkpoints
from aisle.training.examples import Examples
from aisle.training.full.images import learn_viewers
from aisle.training.full.texts import LearntReader, learn_reader
from aisle.training.learner import Learnt, nothing_to_learn
from aisle.training.recipes import Full
from aisle.training.stacking import fit_stacked


class FullLearner:
    def __init__(self, recipe: Full) -> None:
        self._recipe = recipe

    def learn(self, examples: Examples, stages: Checkpoints) -> Learnt:
        recipe, types, threads = self._recipe, len(examples.codes), examples.threads
        if not torch.cuda.is_available():
            get_logger(__name__).warning("there is no GPU: on a CPU the recipe full takes days for a large catalogue")
        readers = self._readers(examples, stages)
        images = learn_viewers(recipe, examples, stages)
        if not readers and images is None:
            raise nothing_to_learn()
        graph = images.graph if images else None
        held_out = examples.rows(Side.VALIDATION, graph=graph)
        texts: dict[str, AnyTextModel] = {}
        if len(readers) > 1:
            parts = {name: one.model for name, one in readers.items()}
            texts[TEXT] = fit_blend(parts, TEXT, held_out, threads=threads)
        elif readers:
            [texts[TEXT]] = (one.model for one in readers.values())
        models = Models(texts, images.head if images else None)
        temperatures, logs = calibrated_scores(models, held_out, types, threads=threads)
        joined = fit_stacked(logs, models.present(held_out.inputs), held_out.targets, smallest=2)
        return Learnt(
            Classifier(examples.codes, models, temperatures, joined.fusion),
            decision_thresholds(np.exp(joined.unseen), held_out.targets, recipe.decisions, examples.codes),
            graph,
            report={
                "readers": [one.report for one in readers.values()],
                **({"image_encoder": images.report} if images else {}),
            },
            history={name: one.history for name, one in readers.items()} | dict(images.history if images else {}),
        )

    def _readers(self, examples: Examples, stages: Checkpoints) -> Mapping[str, LearntReader]:
        """By the names that a bundle's files have; none where fewer than two types have a text."""
        sides = [examples.rows(side, graph=None) for side in (Side.TRAIN, Side.VALIDATION)]
        learnt, held_out = (rows.at(np.flatnonzero(rows.inputs.has(TEXT))) for rows in sides)
        if len(np.unique(learnt.targets)) < 2:
            return {}
        return {
            f"{TEXT}_{number}": learn_reader(name, self._recipe, examples, learnt, held_out, stages)
            for number, name in enumerate(self._recipe.text.models, start=1)
        }

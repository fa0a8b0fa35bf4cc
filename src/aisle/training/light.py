"""The recipe `light`: linear models of title, description and image features.

The models are fitted on the train side; calibration, fusion and decision thresholds on the validation side; then
the models are fitted again on both sides, for what the catalogue has to teach.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aisle.data.split import Side
from aisle.errors import ServiceMissing
from aisle.logs import get_logger
from aisle.model.blend import BlendedModel, SingleTextModel
from aisle.model.classifier import DESCRIPTION, IMAGE, TITLE, Classifier, Models
from aisle.model.image import DenseHead, Features
from aisle.model.text import TextModel, TextVectorizer
from aisle.model.transformer import TransformerModel
from aisle.training import efficientnet
from aisle.training.calibrate import calibrated_scores, decision_thresholds, fit_blend
from aisle.training.checkpoints import Checkpoints
from aisle.training.dense_head import fit_dense_head
from aisle.training.examples import Examples, Rows
from aisle.training.heads import fit_logistic_head, fit_text_head
from aisle.training.learner import Learnt, nothing_to_learn
from aisle.training.recipes import Light, LogisticTraining
from aisle.training.stacking import fit_stacked
from aisle.training.teaching import Teacher, taught_by

TRANSFORMER = "title_transformer"


class LightLearner:
    def __init__(self, recipe: Light) -> None:
        self._recipe = recipe

    def learn(self, examples: Examples, stages: Checkpoints) -> Learnt:
        graph = image_encoder(self._recipe, examples)
        if graph is not None:
            examples.encode(graph)
        fitting = Fitting(self._recipe, examples, stages)
        teacher = None
        if self._recipe.teacher is not None:
            teacher = Teacher(self._recipe.teacher, examples, stages)
        learnt = taught_by(teacher, examples.rows(Side.TRAIN, graph=graph), Side.TRAIN)
        held_out = examples.rows(Side.VALIDATION, graph=graph)
        names = learnable(self._recipe, learnt)
        transformer = fitting.transformer(learnt)
        first = fitting.models(names, learnt, "train")
        if transformer is not None and isinstance(title := first.texts[TITLE], TextModel):
            parts: dict[str, SingleTextModel] = {TITLE: title, TRANSFORMER: transformer}
            first = first.with_text(TITLE, fit_blend(parts, TITLE, held_out, threads=examples.threads))
        temperatures, logs = calibrated_scores(first, held_out, len(examples.codes), threads=examples.threads)
        # One model alone is calibrated already: more would be learnt by heart, of titles like those held out.
        joined = fit_stacked(logs, first.present(held_out.inputs), held_out.targets, smallest=2)
        measured = Classifier(examples.codes, first, temperatures, joined.fusion)
        thresholds = decision_thresholds(
            np.exp(joined.unseen), held_out.targets, self._recipe.decisions, examples.codes
        )

        both = (Side.TRAIN, Side.VALIDATION)
        final = fitting.models(names, taught_by(teacher, examples.rows(*both, graph=graph), *both), "final")
        blend, linear = first.texts.get(TITLE), final.texts.get(TITLE)
        if isinstance(blend, BlendedModel) and isinstance(linear, TextModel):
            final = final.with_text(TITLE, blend.with_part(TITLE, linear))
        classifier = Classifier(examples.codes, final, temperatures, joined.fusion)
        return Learnt(classifier, thresholds, graph if final.image is not None else None, before=measured)


class Fitting:
    """Fits the models of a recipe, each a stage that a later run finds finished."""

    def __init__(self, recipe: Light, examples: Examples, stages: Checkpoints) -> None:
        self._recipe, self._stages = recipe, stages
        self._types, self._threads = len(examples.codes), examples.threads
        self._of_images = recipe.image.of(examples.image_count)

    def models(self, names: Sequence[str], rows: Rows, stage: str) -> Models:
        get_logger(__name__).info("fitting models", on=stage, rows=len(rows), models=list(names))
        texts = {name: self._text(name, rows, stage) for name in names if name != IMAGE}
        return Models(texts, self._image(rows, stage) if IMAGE in names else None)

    def transformer(self, rows: Rows) -> TransformerModel | None:
        """Fine-tuned on the titles; None where there are too few, or what it takes is not installed."""
        how = self._recipe.transformer
        here = np.flatnonzero(rows.inputs.has(TITLE))
        if how is None or len(here) < how.min_texts:
            return None
        titles = [rows.inputs.titles[row] for row in here.tolist()]
        try:
            from aisle.training.title_transformer import learn_transformer  # noqa: PLC0415  JAX takes its time

            get_logger(__name__).info("fine-tuning a transformer", titles=len(titles), epochs=how.epochs)
            return learn_transformer(
                titles,
                rows.targets[here],
                rows.weights[here],
                self._types,
                how,
                self._recipe.seed,
                self._stages,
                rows.wanted_at(here),
            )
        except (ModuleNotFoundError, ServiceMissing) as error:  # its weights are not to be had for every machine
            get_logger(__name__).warning("no transformer reads the titles", reason=str(error))
            return None

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
                wanted=rows.wanted_at(here),
            ),
        )
        return TextModel(vectorizer, head["weights"], head["bias"])

    def _image(self, rows: Rows, stage: str) -> DenseHead:
        here = np.flatnonzero(rows.inputs.has(IMAGE))
        features = np.stack([one for one in rows.inputs.features if one is not None])
        targets, weights, wanted = rows.targets[here], rows.weights[here], rows.wanted_at(here)
        how, types = self._of_images, self._types

        def fit() -> dict[str, Features]:
            if isinstance(how, LogisticTraining):
                return fit_logistic_head(features, targets, weights, types, how, wanted)
            shares = np.eye(types)[targets] if wanted is None else wanted
            return fit_dense_head(features, shares.astype(np.float32), weights, how, self._recipe.seed)

        head = self._stages.get(f"{stage}-{IMAGE}", fit)
        return DenseHead.from_arrays(head)


def image_encoder(recipe: Light, examples: Examples) -> bytes | None:
    """The graph that images are looked at with; None for a catalogue that has none."""
    if examples.prepared.images_path is None:
        return None
    return efficientnet.encoder(recipe.image.of(examples.image_count).networks)


def learnable(recipe: Light, rows: Rows) -> list[str]:
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

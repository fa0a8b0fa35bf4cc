"""Training: a prepared catalogue and a recipe in, a bundle out.

    1. the recipe is learnt from the train side, calibrated and decided on by the validation side
    2. measured on the test side, which nothing was fitted on
    3. described, for what is served later to be compared with
    4. written

Finished stages are kept until the bundle is written: a run that was killed goes on and ends with the same bytes.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from aisle.data.prepare import Prepared
from aisle.data.split import Side
from aisle.errors import ServiceMissing
from aisle.files import check_replaceable, sha256_json, write_bytes
from aisle.logs import get_logger
from aisle.model.bundle import MANIFEST_FILE, Bundle, BundleParts, write_bundle
from aisle.model.classifier import LOOKS_AT, Classifier
from aisle.model.image import ImageEncoder
from aisle.model.known_answer import known_answer
from aisle.settings import get_settings, provide_keras
from aisle.training import efficientnet, vgg16
from aisle.training.card import model_card
from aisle.training.checkpoints import Checkpoints
from aisle.training.evaluate import measure
from aisle.training.examples import Examples, Rows
from aisle.training.learner import Learner
from aisle.training.light import LightLearner
from aisle.training.lineage import code_revision, package_versions
from aisle.training.recipes import Light, LstmVgg16, Recipe
from aisle.training.reference import build_reference


def train(
    recipe: Recipe,
    prepared: Prepared,
    out: Path,
    *,
    cache: Path,
    threads: int,
    evaluated_on: Side = Side.TEST,
    attachments: Path | None = None,
    source: str = "cli",
) -> Bundle:
    """Train `recipe` on `prepared` and write the bundle to `out`. Raises InputError for a catalogue it cannot use.

    `source` is who started it, for the ledger.
    What else the recipe has for people who go on with its training goes to the folder `attachments/VERSION`.
    """
    check_replaceable(out, marker=MANIFEST_FILE)
    started, began = time.monotonic(), datetime.now(UTC)
    learner = learner_of(recipe)
    examples = Examples(prepared, cache, threads)
    lineage = lineage_of(recipe, prepared)
    stages = Checkpoints(cache / "training", sha256_json(lineage)[:16])
    learnt = learner.learn(examples, stages)
    seconds = {"learnt": time.monotonic() - started}

    classifier, graph = learnt.classifier, learnt.encoder_graph
    metrics = {
        "calibrated_on": {"side": Side.VALIDATION.value, "rows": prepared.counts[Side.VALIDATION.value]},
        "side": evaluated_on.value,
        **learnt.report,
        **_measure_by_inputs(classifier, examples.rows(evaluated_on, graph=graph)),
    }
    seconds["measured"] = time.monotonic() - started
    answering = {Side.TEST: classifier, Side.VALIDATION: learnt.before or classifier}
    reference = build_reference(examples, answering, graph, recipe.seed)
    seconds["described"] = time.monotonic() - started
    run: dict[str, Any] = {
        "source": source,
        "began": began.isoformat(timespec="seconds"),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "threads": threads,
        "history": learnt.history,
    }
    bundle = write_bundle(
        out,
        BundleParts(
            classifier=classifier,
            encoder_graph=graph,
            types=prepared.types(),
            changes=prepared.changes(),
            thresholds=learnt.thresholds,
            promise=f"{recipe.decisions.promise:.2f}",
            recipe=recipe.name,
            reference=reference,
            known_answer=known_answer(classifier, ImageEncoder(graph) if graph else None),
            metrics=metrics,
            lineage=lineage,
            card=model_card(recipe.name, prepared.types(), metrics, lineage),
            run=run,
        ),
    )
    if attachments is not None:
        for name, content in learnt.attachments.items():
            write_bytes(attachments / bundle.version / name, content)
    stages.clear()
    get_logger(__name__).info("trained", version=bundle.version, bundle=str(out), **run["seconds"])
    return bundle


def learner_of(recipe: Recipe) -> Learner:
    """Raises ServiceMissing where what the recipe learns with is not installed."""
    if isinstance(recipe, Light):
        return LightLearner(recipe)
    provide_keras()
    try:
        from aisle.training.lstm_vgg16.learner import LstmVgg16Learner  # noqa: PLC0415  TensorFlow takes its time
    except ModuleNotFoundError as error:
        raise ServiceMissing(
            f"the recipe {recipe.name} needs the package {error.name}, which is not installed",
            hint="Install aisle with its extra `keras`.",
        ) from None
    return LstmVgg16Learner(recipe)


def lineage_of(recipe: Recipe, prepared: Prepared) -> dict[str, Any]:
    """All that decides the bytes of a bundle: data, code, configuration and seed."""
    backend = get_settings().keras_backend if isinstance(recipe, LstmVgg16) else None
    networks = ("keras", "tensorflow-cpu", "tensorflow", backend) if backend else ()
    return {
        "data_hash": prepared.data_hash,
        "code_revision": code_revision(),
        "configuration": json.loads(json.dumps(asdict(recipe))),
        "seed": recipe.seed,
        "packages": package_versions(*networks),
        **({"keras_backend": backend} if backend else {}),
        "image_encoder": _encoder_source(recipe) if prepared.images_path else None,
        "rows": prepared.counts,
    }


def _encoder_source(recipe: Recipe) -> str:
    """A hash of the weights that the image encoder begins with."""
    return efficientnet.CHECKPOINT_SHA256 if isinstance(recipe, Light) else vgg16.source(recipe.image.weights)


def _measure_by_inputs(classifier: Classifier, rows: Rows) -> dict[str, Any]:
    """The figures with all inputs, and with each model's input alone; {} where the side has no rows."""
    figures = {}
    models = classifier.models
    for label, part in {"all": rows, **{name: rows.looked_at_by(LOOKS_AT[name]) for name in models.names()}}.items():
        here = np.flatnonzero(models.present(part.inputs).any(axis=1)) if len(rows) else np.array([], dtype=np.intp)
        if len(here):
            seen = part.at(here)
            figures[label] = measure(classifier.probabilities(seen.inputs), seen.targets, classifier.codes)
    return figures

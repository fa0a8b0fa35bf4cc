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
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from aisle.data.prepare import Prepared
from aisle.data.split import Side
from aisle.errors import ServiceMissing
from aisle.files import check_replaceable, sha256_json, write_bytes
from aisle.logs import get_logger
from aisle.model.bundle import MANIFEST_FILE, Bundle, BundleParts, write_bundle
from aisle.model.calibration import Array
from aisle.model.classifier import DESCRIPTION, IMAGE, LOOKS_AT, Classifier
from aisle.model.decisions import check_known
from aisle.model.image import ImageEncoder
from aisle.model.known_answer import known_answer
from aisle.settings import get_settings, provide_keras
from aisle.training import efficientnet, pretrained, vgg16
from aisle.training.calibrate import Thresholds, promise_key
from aisle.training.card import model_card
from aisle.training.checkpoints import Checkpoints
from aisle.training.datasheet import data_sheet
from aisle.training.evaluate import measure
from aisle.training.examples import Examples, Rows, in_parts
from aisle.training.intervals import intervals
from aisle.training.learner import Learner
from aisle.training.light import LightLearner
from aisle.training.lineage import code_revision, package_versions
from aisle.training.neighbours import build_neighbours
from aisle.training.recipes import Decisions, Full, Light, LstmVgg16, Recipe
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
    check_known(recipe.decisions.costs, prepared.types())
    examples = Examples(prepared, cache, threads)
    # A product of matrices on several threads adds up in another order: one thread each gives the same everywhere.
    # What takes long is done by several threads all the same, each with work of its own.
    with threadpool_limits(1, "blas"):
        return _train(recipe, examples, out, cache / "training", evaluated_on, attachments, source)


def _train(
    recipe: Recipe,
    examples: Examples,
    out: Path,
    unfinished: Path,
    evaluated_on: Side,
    attachments: Path | None,
    source: str,
) -> Bundle:
    started, began = time.monotonic(), datetime.now(UTC)
    prepared, threads = examples.prepared, examples.threads
    learner = learner_of(recipe)
    lineage = lineage_of(recipe, prepared)
    stages = Checkpoints(unfinished, sha256_json(lineage)[:16])
    learnt = learner.learn(examples, stages)
    seconds = {"learnt": time.monotonic() - started}

    classifier, graph = learnt.classifier, learnt.encoder_graph
    metrics = {
        "calibrated_on": {"side": Side.VALIDATION.value, "rows": prepared.counts[Side.VALIDATION.value]},
        "side": evaluated_on.value,
        **learnt.report,
        **_measure_by_inputs(classifier, examples.rows(evaluated_on, graph=graph), threads),
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
    decision = _decision(recipe.decisions, learnt.thresholds)
    bundle = write_bundle(
        out,
        BundleParts(
            classifier=classifier,
            encoder_graph=graph,
            types=prepared.types(),
            changes=prepared.changes(),
            decision=decision,
            recipe=recipe.name,
            reference=reference,
            neighbours=build_neighbours(examples, graph, recipe.seed),
            known_answer=known_answer(classifier, ImageEncoder(graph) if graph else None),
            metrics=metrics,
            lineage=lineage,
            card=model_card(recipe.name, prepared.types(), metrics, lineage, decision),
            sheet=data_sheet(prepared, reference),
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
    extra = "full" if isinstance(recipe, Full) else "keras"
    try:
        if isinstance(recipe, Full):
            from aisle.training.full.learner import FullLearner  # noqa: PLC0415  so does PyTorch

            return FullLearner(recipe)
        provide_keras()
        from aisle.training.lstm_vgg16.learner import LstmVgg16Learner  # noqa: PLC0415  TensorFlow takes its time

        return LstmVgg16Learner(recipe)
    except ModuleNotFoundError as error:
        raise ServiceMissing(
            f"the recipe {recipe.name} needs the package {error.name}, which is not installed",
            hint=f"Install aisle with its extra `{extra}`.",
        ) from None


def _decision(how: Decisions, thresholds: Thresholds) -> dict[str, Any]:
    """What a bundle keeps of when it accepts a product."""
    costs = {"costs": how.costs} if how.costs else {}
    return {"promise": promise_key(how.promise), "thresholds": thresholds, **costs}


def lineage_of(recipe: Recipe, prepared: Prepared) -> dict[str, Any]:
    """All that decides the bytes of a bundle: data, code, configuration and seed."""
    backend = get_settings().keras_backend if isinstance(recipe, LstmVgg16) else None
    networks: tuple[str, ...] = ("keras", "tensorflow-cpu", "tensorflow", backend) if backend else ()
    encoder = _encoder_source(recipe, prepared) if prepared.images_path else None
    if isinstance(recipe, Full):
        networks, recipe = ("torch", "transformers"), pretrained.with_sources(recipe)
    return {
        "data_hash": prepared.data_hash,
        "code_revision": code_revision(),
        "configuration": _configuration(recipe),
        "seed": recipe.seed,
        "packages": package_versions(*networks),
        **({"keras_backend": backend} if backend else {}),
        "image_encoder": encoder,
        "rows": prepared.counts,
    }


def _configuration(recipe: Recipe) -> dict[str, Any]:
    """Without where on this machine a teacher lies: its version says which it is."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(recipe), default=str))
    if found.get("teacher"):
        del found["teacher"]["folder"]
    return found


def _encoder_source(recipe: Recipe, prepared: Prepared) -> str:
    """What tells apart the weights that the image encoder begins with."""
    if isinstance(recipe, Full):
        return " + ".join(pretrained.with_sources(recipe).image.models)
    if isinstance(recipe, Light):
        names = recipe.image.of(prepared.image_count()).networks
        return " + ".join(efficientnet.NETWORKS[name].sha256 for name in names)
    return vgg16.source(recipe.image.weights)


LEAST_MISSING = 20
"""Figures of fewer products without an input would say nothing."""


def _measure_by_inputs(classifier: Classifier, rows: Rows, threads: int) -> dict[str, Any]:
    """The figures with all inputs, with each model's input alone, and of products that have no description or image.

    {} where the side has no rows.
    """
    figures = {}
    models = classifier.models
    for label, part in {"all": rows, **{name: rows.looked_at_by(LOOKS_AT[name]) for name in models.names()}}.items():
        here = np.flatnonzero(models.present(part.inputs).any(axis=1)) if len(rows) else np.array([], dtype=np.intp)
        if len(here):
            seen = part.at(here)
            said = np.concatenate(in_parts(lambda some: classifier.probabilities(some.inputs), seen, threads))
            figures[label] = _measured(said, seen.targets, classifier.codes)
            if label == "all":
                figures |= _without(said, seen, classifier.codes)
    return figures


def _without(said: Array, seen: Rows, codes: tuple[str, ...]) -> dict[str, Any]:
    """The figures of the products that came without an input, where there are some and others have it."""
    missing = {
        f"without_{DESCRIPTION}": np.array([not text for text in seen.inputs.descriptions]),
        f"without_{IMAGE}": np.array([features is None for features in seen.inputs.features]),
    }
    return {
        label: _measured(said[are], seen.targets[are], codes)
        for label, are in missing.items()
        if LEAST_MISSING <= are.sum() < len(are)
    }


def _measured(said: Array, targets: NDArray[np.intp], codes: tuple[str, ...]) -> dict[str, Any]:
    return {**measure(said, targets, codes), "intervals": intervals(targets, said.argmax(axis=1), codes)}

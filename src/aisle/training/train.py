"""Training: a prepared catalogue and a recipe in, a bundle out.

    1. image features, computed once and cached
    2. models fitted on the train side; calibration, fusion and decision thresholds on the validation side
    3. models fitted again on both sides, for what the catalogue has to teach
    4. measured on the test side, which nothing was fitted on, and written

Finished stages are kept until the bundle is written: a run that was killed goes on and ends with the same bytes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from aisle.data.prepare import Prepared
from aisle.data.split import Side
from aisle.errors import CatalogError
from aisle.files import check_replaceable, sha256_json
from aisle.logs import get_logger
from aisle.model.bundle import MANIFEST_FILE, Bundle, BundleParts, write_bundle
from aisle.model.calibration import Array, fit_temperature, lowest_threshold
from aisle.model.classifier import DESCRIPTION, IMAGE, TITLE, Classifier, Inputs, Models, calibrated
from aisle.model.fusion import fit_fusion
from aisle.model.image import Features, ImageEncoder, LinearHead
from aisle.model.known_answer import known_answer
from aisle.model.text import TextModel, TextVectorizer
from aisle.training import efficientnet
from aisle.training.card import model_card
from aisle.training.checkpoints import Checkpoints
from aisle.training.evaluate import measure
from aisle.training.features import FeatureCache, compute_features
from aisle.training.heads import fit_image_head, fit_text_head
from aisle.training.lineage import code_revision, package_versions
from aisle.training.recipes import Light


@dataclass(frozen=True, slots=True)
class Rows:
    """Labelled products after the one way in. `targets` are columns of n x types arrays."""

    inputs: Inputs
    targets: NDArray[np.intp]
    weights: Array

    def __len__(self) -> int:
        return len(self.targets)

    def at(self, rows: NDArray[np.intp]) -> Rows:
        def pick(values: Sequence[Any]) -> list[Any]:
            return [values[row] for row in rows]

        inputs = self.inputs
        picked = Inputs(pick(inputs.titles), pick(inputs.descriptions), pick(inputs.features))
        return Rows(picked, self.targets[rows], self.weights[rows])


def train(
    recipe: Light, prepared: Prepared, out: Path, *, cache: Path, threads: int, evaluated_on: Side = Side.TEST
) -> Bundle:
    """Train `recipe` on `prepared` and write the bundle to `out`. Raises InputError for a catalogue it cannot use."""
    check_replaceable(out, marker=MANIFEST_FILE)
    started = time.monotonic()
    log = get_logger(__name__)
    table = prepared.products()
    codes = tuple(code for code in prepared.types() if code in set(table["type_code"]))
    graph, features = _image_features(prepared, table, cache, threads)
    rows = _rows(table, features, codes)
    side = table["side"].to_numpy()
    seconds = {"features": time.monotonic() - started}

    lineage = lineage_of(recipe, prepared)
    stages = Checkpoints(cache / "training", sha256_json(lineage)[:16])
    fitting = _Fitting(recipe, len(codes), stages, threads)

    learnt = rows.at(np.flatnonzero(side == Side.TRAIN))
    held_out = rows.at(np.flatnonzero(side == Side.VALIDATION))
    names = _learnable(recipe, learnt)
    first = fitting.models(names, learnt, "train")
    classifier, thresholds = _calibrate(recipe, codes, first, held_out)
    seconds["calibrated"] = time.monotonic() - started

    both = rows.at(np.flatnonzero((side == Side.TRAIN) | (side == Side.VALIDATION)))
    final = fitting.models(names, both, "final")
    classifier = Classifier(codes, final, classifier.temperatures, classifier.fusion)
    seconds["fitted"] = time.monotonic() - started

    metrics = {
        "calibrated_on": {"side": Side.VALIDATION.value, "rows": len(held_out)},
        "side": evaluated_on.value,
        **_measure_by_inputs(classifier, rows.at(np.flatnonzero(side == evaluated_on))),
    }
    used_graph = graph if final.image is not None else None
    run: dict[str, Any] = {"seconds": {name: round(value, 3) for name, value in seconds.items()}, "threads": threads}
    bundle = write_bundle(
        out,
        BundleParts(
            classifier=classifier,
            encoder_graph=used_graph,
            types=prepared.types(),
            thresholds=thresholds,
            promise=f"{recipe.promise:.2f}",
            recipe=recipe.name,
            known_answer=known_answer(classifier, ImageEncoder(used_graph) if used_graph else None),
            metrics=metrics,
            lineage=lineage,
            card=model_card(recipe.name, prepared.types(), metrics, lineage),
            run=run,
        ),
    )
    stages.clear()
    log.info("trained", version=bundle.version, bundle=str(out), **run["seconds"])
    return bundle


def lineage_of(recipe: Light, prepared: Prepared) -> dict[str, Any]:
    """All that decides the bytes of a bundle: data, code, configuration and seed."""
    return {
        "data_hash": prepared.data_hash,
        "code_revision": code_revision(),
        "configuration": json.loads(json.dumps(asdict(recipe))),
        "seed": recipe.seed,
        "packages": package_versions(),
        "image_encoder": efficientnet.CHECKPOINT_SHA256 if prepared.images_path else None,
        "rows": prepared.counts,
    }


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

    def _image(self, rows: Rows, stage: str) -> LinearHead:
        here = np.flatnonzero(rows.inputs.has(IMAGE))
        features = np.stack([one for one in rows.inputs.features if one is not None])
        head = self._stages.get(
            f"{stage}-{IMAGE}",
            lambda: fit_image_head(features, rows.targets[here], rows.weights[here], self._types, self._recipe.image),
        )
        return LinearHead(head["weights"], head["bias"])


def _learnable(recipe: Light, rows: Rows) -> list[str]:
    """The inputs with enough rows to learn from. Raises CatalogError when there is none."""
    least = {TITLE: 2, DESCRIPTION: recipe.min_texts, IMAGE: 2}
    names = []
    for name, count in least.items():
        here = rows.inputs.has(name)
        if here.sum() >= count and len(np.unique(rows.targets[here])) > 1:
            names.append(name)
    if not names:
        raise CatalogError(
            "there is nothing to learn from: fewer than two types with titles or images",
            hint="Add products of other types.",
        )
    return names


def _image_features(
    prepared: Prepared, table: pl.DataFrame, cache: Path, threads: int
) -> tuple[bytes | None, list[Features | None]]:
    """The encoder's graph, and the features of each row; None where the catalogue or the row has no image."""
    images = prepared.images()
    if images is None:
        return None, [None] * len(table)
    graph = efficientnet.build_graph(efficientnet.read_checkpoint(efficientnet.checkpoint_path()))
    wanted = dict(table.drop_nulls("image").select("image_sha256", "image").iter_rows())
    found = compute_features(
        images, ImageEncoder(graph), wanted, FeatureCache(cache / "features", graph), threads=threads
    )
    return graph, [found[sha256] if sha256 else None for sha256 in table["image_sha256"]]


def _rows(table: pl.DataFrame, features: list[Features | None], codes: Sequence[str]) -> Rows:
    column = {code: index for index, code in enumerate(codes)}
    return Rows(
        Inputs(table["title"].to_list(), table["description"].to_list(), features),
        np.array([column[code] for code in table["type_code"]], dtype=np.intp),
        table["weight"].to_numpy().astype(np.float64),
    )


def _calibrate(
    recipe: Light, codes: tuple[str, ...], models: Models, rows: Rows
) -> tuple[Classifier, dict[str, float | None]]:
    """Temperatures, fusion and decision thresholds, from rows that `models` has not seen."""
    present = models.present(rows.inputs)
    scores = models.scores(rows.inputs, len(codes))
    temperatures = {}
    for index, name in enumerate(models.names()):
        seen = np.isfinite(scores[name][np.arange(len(rows)), rows.targets])
        here = present[:, index] & seen
        temperatures[name] = fit_temperature(scores[name][here], rows.targets[here]) if here.any() else 1.0
    fusion = fit_fusion(calibrated(scores, temperatures), present, rows.targets)
    classifier = Classifier(codes, models, temperatures, fusion)
    probabilities = classifier.probabilities(rows.inputs)
    right = probabilities.argmax(axis=1) == rows.targets
    confidence = probabilities.max(axis=1)
    thresholds = {
        f"{accuracy:.2f}": lowest_threshold(confidence, right, accuracy, certainty=recipe.certainty)
        for accuracy in recipe.promised_accuracies
    }
    return classifier, thresholds


def _measure_by_inputs(classifier: Classifier, rows: Rows) -> dict[str, Any]:
    """The figures with all inputs, and with each model's input alone; {} where the side has no rows."""
    figures = {}
    missing: dict[str, Sequence[Any]] = {
        TITLE: [""] * len(rows),
        DESCRIPTION: [""] * len(rows),
        IMAGE: [None] * len(rows),
    }
    full = {name: rows.inputs.field(name) for name in missing}
    for label, kept in {"all": set(missing), **{name: {name} for name in classifier.models.names()}}.items():
        chosen = {name: full[name] if name in kept else missing[name] for name in missing}
        inputs = Inputs(chosen[TITLE], chosen[DESCRIPTION], chosen[IMAGE])
        here = (
            np.flatnonzero(classifier.models.present(inputs).any(axis=1))
            if len(rows)
            else np.array([], dtype=np.intp)
        )
        if len(here):
            part = Rows(inputs, rows.targets, rows.weights).at(here)
            figures[label] = measure(classifier.probabilities(part.inputs), part.targets, classifier.codes)
    return figures

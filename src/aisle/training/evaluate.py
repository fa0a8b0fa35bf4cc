"""How good predictions are: from probabilities and true types to figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score, precision_recall_fscore_support

from aisle.catalog import Product, ProductTypes, TypeChanges
from aisle.errors import InputError
from aisle.model.calibration import Array, calibration_error, lowest_threshold
from aisle.model.mapping import in_types_of_today
from aisle.model.predictor import Predictor


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A bundle measured on labelled products, with what a report shows of them.

    `probabilities` is n x types in the order of `codes`; `targets` holds the column of each product's true
    type, -1 for a type that the model does not know (`true_codes` has its code all the same). These are codes of
    today; `changed` has what became of the model's own codes that are others today, None: it fell away.
    """

    figures: dict[str, Any]
    model_version: str
    probabilities: Array
    targets: NDArray[np.intp]
    true_codes: Sequence[str]
    codes: tuple[str, ...]
    types: ProductTypes
    keys: Sequence[str]
    products: Sequence[Product]
    changed: Mapping[str, str | None] = field(default_factory=dict)


LATENCY_PRODUCTS = 200
LEAST_KNOWN = 0.5
"""Figures of a model that knows fewer of the products' types would measure the wrong model."""

PROMISES = (0.95, 0.97, 0.98, 0.99)
SMALLEST = 1e-15
"""Probabilities are cut here for the log-loss, as scikit-learn does for float64."""


def evaluate(
    predictor: Predictor,
    keys: Sequence[str],
    products: Sequence[Product],
    true_codes: Sequence[str],
    *,
    changes: TypeChanges = TypeChanges(),
    types: ProductTypes | None = None,
    least_known: float = LEAST_KNOWN,
    clock: Callable[[], float] = time.perf_counter,
) -> Evaluation:
    """Measure a bundle on labelled products. Products without anything to look at are left out, and counted.

    `true_codes` are types of today, `changes` what became of those that the bundle may know: its answers are mapped.
    `types` is today's table, if it is not the bundle's.
    Raises InputError without products, or if the bundle knows the types of less than `least_known` of them. Latency
    is that of one product alone, in milliseconds, over the first 200 products.
    """
    inputs, _ = predictor.inputs(products)
    probabilities = predictor.classifier.probabilities(inputs)
    usable = np.flatnonzero(~np.isnan(probabilities).any(axis=1)) if len(products) else np.array([], dtype=np.intp)
    if not len(usable):
        raise InputError("there is no product to measure on")
    own = predictor.classifier.codes
    accepted = predictor.accepts(probabilities[usable])
    probabilities, codes = in_types_of_today(probabilities[usable], own, changes)
    column = {code: index for index, code in enumerate(codes)}
    targets = np.array([column.get(true_codes[row], -1) for row in usable], dtype=np.intp)
    known = float((targets >= 0).mean())
    if known < least_known:
        raise InputError(
            f"the model {predictor.version} knows the types of {known:.0%} of these products only",
            hint="Was it trained on another catalogue? --model names another one.",
        )
    kept = [products[row] for row in usable]
    figures = {
        **measure(probabilities, targets, codes),
        "left_out": len(products) - len(usable),
        "accepted": _accepted(probabilities, targets, accepted),
        "latency_ms": _latency(predictor, kept[:LATENCY_PRODUCTS], clock),
    }
    return Evaluation(
        figures=figures,
        model_version=predictor.version,
        probabilities=probabilities,
        targets=targets,
        true_codes=[true_codes[row] for row in usable],
        codes=codes,
        types=predictor.bundle.types() if types is None else types,
        keys=[keys[row] for row in usable],
        products=kept,
        changed={code: changes[code] for code in own if code in changes},
    )


def measure(
    probabilities: Array, targets: NDArray[np.intp], codes: Sequence[str], *, digits: int = 6
) -> dict[str, Any]:
    """All figures of the contract that follow from n x types `probabilities` and n `targets` (columns).

    A target of -1 is a type that the model does not know: always wrong. Coverage at a promise is the largest
    share of products, the surest first, of which at least that share is right: on these rows, so it is an upper
    bound of what a threshold fixed in advance reaches.
    """
    guesses, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = guesses == targets
    known = targets >= 0
    at_target = np.where(known, probabilities[np.arange(len(targets)), targets], 0.0)
    top_3 = (np.argsort(-probabilities, axis=1, kind="stable")[:, :3] == targets[:, None]).any(axis=1)
    labels = np.unique(targets)
    figures = {
        "rows": len(targets),
        "accuracy": right.mean(),
        "weighted_f1": f1_score(targets, guesses, average="weighted", labels=labels, zero_division=0),
        "macro_f1": f1_score(targets, guesses, average="macro", labels=labels, zero_division=0),
        "top_3": top_3.mean(),
        "log_loss": np.abs(np.log(np.maximum(at_target, SMALLEST))).mean(),
        "calibration_error": calibration_error(confidence, right),
    }
    return {
        **{name: round(float(value), digits) if name != "rows" else value for name, value in figures.items()},
        "coverage": {f"{promise:.2f}": round(_coverage(confidence, right, promise), digits) for promise in PROMISES},
        "per_type": _per_type(targets, guesses, labels, codes, digits),
    }


def weighted_f1(targets: NDArray[np.intp], guesses: NDArray[np.intp]) -> float:
    return float(f1_score(targets, guesses, average="weighted", labels=np.unique(targets), zero_division=0))


def paired_gain(
    targets: NDArray[np.intp],
    before: NDArray[np.intp],
    after: NDArray[np.intp],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, tuple[float, float]]:
    """How many points of weighted F1 the guesses `after` have more than those `before`, and its 95 % interval.

    By the paired bootstrap: both are measured on the same draws of the products.
    """
    chance = np.random.default_rng(seed)

    def gain(rows: NDArray[np.intp]) -> float:
        return 100 * (weighted_f1(targets[rows], after[rows]) - weighted_f1(targets[rows], before[rows]))

    rows = np.arange(len(targets))
    drawn = [gain(chance.choice(rows, len(rows))) for _ in range(resamples)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return gain(rows), (float(low), float(high))


def coverage_curve(probabilities: Array, targets: NDArray[np.intp]) -> tuple[Array, Array]:
    """The share of products accepted, the surest first, and the share of those that is right."""
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    right = (probabilities.argmax(axis=1) == targets)[order]
    counts = np.arange(1, len(right) + 1)
    return counts / len(right), np.cumsum(right) / counts


def reliability(probabilities: Array, targets: NDArray[np.intp], bins: int = 15) -> list[tuple[float, float, int]]:
    """Bins of equal mass: mean confidence, share right, rows."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(confidence)))
    return [(float(confidence[one].mean()), float(right[one].mean()), len(one)) for one in parts]


def _accepted(probabilities: Array, targets: NDArray[np.intp], taken: NDArray[np.bool_]) -> dict[str, float]:
    """How much the bundle accepts by a threshold fixed before it saw these rows, and how much of that is right."""
    right = (probabilities.argmax(axis=1) == targets)[taken]
    share = {"coverage": round(float(taken.mean()), 6)}
    return {**share, "accuracy": round(float(right.mean()), 6)} if len(right) else share


def _latency(predictor: Predictor, products: Sequence[Product], clock: Callable[[], float]) -> dict[str, float]:
    predictor.predict(products[:3])  # warm up
    seconds = []
    for product in products:
        start = clock()
        predictor.predict([product])
        seconds.append(clock() - start)
    return {f"p{part}": round(float(np.percentile(seconds, part)) * 1000, 3) for part in (50, 95, 99)}


def _coverage(confidence: Array, right: NDArray[np.bool_], promise: float) -> float:
    threshold = lowest_threshold(confidence, right, promise)
    return 0.0 if threshold is None else float((confidence >= threshold).mean())


def _per_type(
    targets: NDArray[np.intp],
    guesses: NDArray[np.intp],
    labels: NDArray[np.intp],
    codes: Sequence[str],
    digits: int,
) -> dict[str, dict[str, float]]:
    columns = precision_recall_fscore_support(targets, guesses, labels=labels, zero_division=0)
    return {
        codes[label] if label >= 0 else "unknown": {
            "precision": round(float(precision), digits),
            "recall": round(float(recall), digits),
            "f1": round(float(f1), digits),
            "rows": int(rows),
        }
        for label, precision, recall, f1, rows in zip(labels, *columns, strict=True)
    }

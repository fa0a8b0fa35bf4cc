"""Which labels of a catalogue are likely to be wrong: what models say that have not seen them.

Confident learning (C. Northcutt, L. Jiang, I. Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels,
arXiv:1911.00068): every product is judged by models fitted on the other folds. It is suspect where another type is at
least as likely as that type usually is for products that are labelled with it. The clearest ones come first.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from aisle.data.split import Side
from aisle.inputs.text import title_key
from aisle.logs import get_logger
from aisle.model.calibration import Array, calibrated
from aisle.model.classifier import Models
from aisle.model.text import Scores, TextModel
from aisle.training.calibrate import fit_temperatures
from aisle.training.checkpoints import Checkpoints
from aisle.training.evaluate import paired_gain, weighted_f1
from aisle.training.examples import Examples, Rows
from aisle.training.light import Fitting, LightLearner, learnable
from aisle.training.recipes import Light
from aisle.training.stacking import fit_weighted_sum

FOLDS = 5
WORDS = 5


@dataclass(frozen=True, slots=True)
class Suspect:
    """A product whose label is likely wrong.

    `words` of the title speak most for the suggested type instead of the label; `models` that saw the product alone
    say so too.
    """

    row: int
    key: str
    label: str
    suggested: str
    label_probability: float
    suggested_probability: float
    words: tuple[str, ...]
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Products that are the same (`by` title or image) and are labelled with different types."""

    by: str
    keys: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabelAudit:
    """`table` has the products in the order of `probabilities`, n x types; NaN without anything to look at."""

    table: pl.DataFrame
    codes: tuple[str, ...]
    probabilities: Array
    suspects: tuple[Suspect, ...]
    contradictions: tuple[Contradiction, ...]


def audit_labels(
    examples: Examples, recipe: Light, stages: Checkpoints, graph: bytes | None, *, folds: int = FOLDS
) -> LabelAudit:
    """Of all products of the catalogue. Raises CatalogError where there is nothing to learn from."""
    rows, table = examples.rows(graph=graph), examples.table
    fold = folds_of(table, folds)
    names = learnable(recipe, rows)
    types = len(examples.codes)
    fitting = Fitting(recipe, examples, stages)
    scores = {name: np.zeros((len(rows), types), np.float32) for name in names}
    fitted: list[Models] = []
    for number in range(folds):
        get_logger(__name__).info("judging the labels of a fold", fold=number + 1, folds=folds)
        here = np.flatnonzero(fold == number)
        models = fitting.models(names, rows.at(np.flatnonzero(fold != number)), f"audit-{number}")
        for name, one in models.scores(rows.at(here).inputs, types).items():
            scores[name][here] = one
        fitted.append(models)
    probabilities, by_model = _judged(fitted[0], scores, rows)
    return LabelAudit(
        table=table,
        codes=examples.codes,
        probabilities=probabilities,
        suspects=tuple(
            _described(row, probabilities, by_model, rows, fitted[fold[row]], examples)
            for row in _suspects(probabilities, rows.targets, rows.weights)
        ),
        contradictions=tuple(contradictions(table)),
    )


def folds_of(table: pl.DataFrame, folds: int) -> NDArray[np.intp]:
    """n: products that share a title or an image file are in one fold, so that none is judged by its twin."""
    group = list(range(len(table)))

    def root(row: int) -> int:
        while group[row] != row:
            group[row] = row = group[group[row]]
        return row

    for _, rows in _alike(table):
        for row in rows[1:]:
            group[max(root(row), root(rows[0]))] = min(root(row), root(rows[0]))
    keys = table["key"].to_list()
    return np.array([zlib.crc32(keys[root(row)].encode()) % folds for row in range(len(table))], dtype=np.intp)


def contradictions(table: pl.DataFrame) -> Iterator[Contradiction]:
    """The same title (without case, accents and punctuation) or the same image file, and different types."""
    keys, labels = table["key"].to_list(), table["type_code"].to_list()
    for by, rows in _alike(table):
        if len({labels[row] for row in rows}) > 1:
            yield Contradiction(by, tuple(keys[row] for row in rows), tuple(labels[row] for row in rows))


def _alike(table: pl.DataFrame) -> Iterator[tuple[str, list[int]]]:
    columns: dict[str, list[str | None]] = {
        "title": [title_key(title) for title in table["title"]],
        "image": table["image_sha256"].to_list(),
    }
    for by, values in columns.items():
        groups: dict[str, list[int]] = {}
        for row, value in enumerate(values):
            if value:
                groups.setdefault(value, []).append(row)
        yield from ((by, rows) for rows in groups.values() if len(rows) > 1)


def _judged(models: Models, scores: dict[str, Scores], rows: Rows) -> tuple[Array, dict[str, Array]]:
    """n x types: the weighted sum of what they say, and what each says by itself.

    A weight a model is little to learn from all rows: none is learnt by heart.
    """
    logs = calibrated(scores, fit_temperatures(models, scores, rows))
    present = models.present(rows.inputs)
    whole = np.flatnonzero(present.all(axis=1))
    joined = fit_weighted_sum({name: one[whole] for name, one in logs.items()}, rows.targets[whole])
    probabilities = np.exp(joined.log_probabilities(logs, present))
    return probabilities, {name: np.exp(one) for name, one in logs.items()}


def _suspects(probabilities: Array, targets: NDArray[np.intp], weights: Array) -> list[int]:
    """The rows, the clearest first: that with the widest margin, and of equals that with the less agreed label."""
    rows, types = np.arange(len(targets)), range(probabilities.shape[1])
    answered = np.asarray(~np.isnan(probabilities).any(axis=1))
    known = np.where(answered[:, None], probabilities, 0.0)
    usual = np.array([_mean(known[answered & (targets == type_), type_]) for type_ in types])
    best = known.argmax(axis=1)
    margin = known[rows, best] - known[rows, targets]
    found = np.flatnonzero(answered & (best != targets) & (known[rows, best] >= usual[best]))
    order: list[int] = found[np.lexsort((weights[found], -margin[found]))].tolist()
    return order


def _mean(probabilities: Array) -> float:
    """1 for a type without products: nothing is as sure as that."""
    return float(probabilities.mean()) if len(probabilities) else 1.0


def _described(
    row: int, probabilities: Array, by_model: dict[str, Array], rows: Rows, models: Models, examples: Examples
) -> Suspect:
    suggested, label = int(probabilities[row].argmax()), int(rows.targets[row])
    here = models.present(rows.at(np.array([row])).inputs)[0]
    agreeing = [
        name
        for name, is_here in zip(models.names(), here, strict=True)
        if is_here and by_model[name][row].argmax() == suggested
    ]
    return Suspect(
        row=row,
        key=examples.table["key"][row],
        label=examples.codes[label],
        suggested=examples.codes[suggested],
        label_probability=float(probabilities[row, label]),
        suggested_probability=float(probabilities[row, suggested]),
        words=_words(models, rows, row, suggested, label),
        models=tuple(agreeing),
    )


def _words(models: Models, rows: Rows, row: int, suggested: int, label: int) -> tuple[str, ...]:
    """Those that say most for the one type and against the other, of the first text that a model read."""
    for name, model in models.texts.items():
        text = rows.inputs.field(name)[row]
        if text and isinstance(model, TextModel):
            weights = model.weights_of_words(text, suggested) - model.weights_of_words(text, label)
            best = np.argsort(-weights, kind="stable")[:WORDS]
            words = text.split()
            return tuple(words[place] for place in best.tolist() if weights[place] > 0)
    return ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Weighted F1 on the same `rows` products, learnt with and without `left_out` suspects of the train side.

    `gain` is in points, with its 95 % interval by the paired bootstrap.
    """

    on: str
    rows: int
    left_out: int
    before: float
    after: float
    gain: float
    interval: tuple[float, float]


def compare_without(
    audit: LabelAudit, examples: Examples, recipe: Light, stages: Checkpoints, measured: Mapping[str, Rows]
) -> list[Comparison]:
    """The whole recipe learnt twice. `measured` are products that neither learns from, by name."""
    suspects = {one.key for one in audit.suspects}
    is_left_out = pl.col("key").is_in(list(suspects)) & (pl.col("side") == Side.TRAIN.value)
    left_out = len(examples.table.filter(is_left_out))
    learner = LightLearner(recipe)
    before = learner.learn(examples, stages.under("with")).classifier
    after = learner.learn(examples.where(~is_left_out), stages.under("without")).classifier
    found = []
    for name, rows in measured.items():
        answers = [one.probabilities(rows.inputs) for one in (before, after)]
        here = np.flatnonzero(~np.isnan(answers[0]).any(axis=1))
        guesses = [one[here].argmax(axis=1) for one in answers]
        gain, interval = paired_gain(rows.targets[here], *guesses)
        before_f1, after_f1 = (weighted_f1(rows.targets[here], one) for one in guesses)
        found.append(Comparison(name, len(here), left_out, before_f1, after_f1, gain, interval))
    return found

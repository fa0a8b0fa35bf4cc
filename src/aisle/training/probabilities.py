"""Fusion, calibration and decisions by themselves: what models said of labelled products in, figures out.

A file is an `.npz` as NumPy writes it: `classes` (k codes), `prdtypecode` (the true code of each of n products), and
for each model an array n x k of probabilities whose name begins with `text_` or `image_`. A row of NaN says that the
model could not look at that product.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle.errors import InputError, UsageError
from aisle.model.calibration import Array
from aisle.model.fusion import Present, StackedFusion
from aisle.training.calibrate import decision_thresholds
from aisle.training.evaluate import measure
from aisle.training.recipes import Decisions
from aisle.training.stacking import fit_stacked

KINDS = ("text_", "image_")
CODES, TRUE = "classes", "prdtypecode"
SMALLEST = 1e-7
"""Half-precision files have no smaller probability than this one; 0 has no logarithm."""
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Said:
    """What models said of n products with k types: n x k log-probabilities each, and who could say something.

    `targets` are the columns of the true types.
    """

    codes: tuple[str, ...]
    logs: Mapping[str, Array]
    present: Present
    targets: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.targets)

    def at(self, rows: NDArray[np.intp]) -> Said:
        logs = {name: one[rows] for name, one in self.logs.items()}
        return Said(self.codes, logs, self.present[rows], self.targets[rows])

    def of(self, models: Sequence[str]) -> Said:
        """The same products, of which these models alone say something."""
        present = self.present & np.array([name in models for name in self.logs])
        return Said(self.codes, self.logs, present, self.targets)


def read_probabilities(file: Path, models: Sequence[str] = ()) -> Said:
    """The models named, or all of the file. Raises InputError for a file of another form, with what is wrong."""
    arrays = _arrays(file)
    for name in (CODES, TRUE):
        if name not in arrays or arrays[name].ndim != 1:
            raise InputError(f"has no one-dimensional array {name!r}", where=file)
    codes, true = ([str(one) for one in arrays[name]] for name in (CODES, TRUE))
    if len(set(codes)) != len(codes) or len(codes) < 2:
        raise InputError(f"{CODES} has fewer than two types, or one of them twice", where=file)
    if not true:
        raise InputError("has no product", where=file)
    known = sorted(name for name in arrays if name.startswith(KINDS))
    if missing := [name for name in models if name not in known]:
        raise InputError(f"has no model {missing[0]!r}", where=file, hint=f"It has {', '.join(known) or 'none'}.")
    if not known:
        raise InputError(f"has no array of a model: its name begins with {' or '.join(KINDS)}", where=file)
    column = {code: index for index, code in enumerate(codes)}
    if strange := sorted(set(true) - set(column)):
        raise InputError(f"{TRUE} has {strange[0]!r}, which is not among its {CODES}", where=file)
    chosen = sorted(set(models)) or known
    logs = {name: _logs(arrays[name], (len(true), len(codes)), f"{file}: {name}") for name in chosen}
    present = np.stack([~np.isnan(one).any(axis=1) for one in logs.values()], axis=1)
    return Said(tuple(codes), logs, present, np.array([column[code] for code in true], dtype=np.intp))


@dataclass(frozen=True, slots=True)
class Joined:
    """One answer for each product to score (n x k, NaN where no model says anything), from a fusion and with
    thresholds that know nothing of them.
    """

    probabilities: Array
    thresholds: Mapping[str, float | None]
    fusion: StackedFusion


def join(scored: Said, fitted: Said, how: Decisions = Decisions()) -> Joined:
    """Fit fusion, calibration and thresholds on `fitted`, and apply them to `scored`, of the same types and models.

    Raises InputError where there is too little to learn from.
    """
    rows = np.flatnonzero(fitted.present.any(axis=1))
    types = len(np.unique(fitted.targets[rows]))
    if len(rows) < FOLDS or types < 2:
        raise InputError(
            f"there is too little to fit on: products {len(rows)}, types {types}",
            hint=f"At least {FOLDS} products of two types are needed, thousands are good.",
        )
    sets = _sets(fitted, scored)
    found = fit_stacked(fitted.logs, fitted.present, fitted.targets, sets=sets, folds=FOLDS)
    probabilities = np.exp(found.fusion.log_probabilities(scored.logs, scored.present))
    return Joined(probabilities, decision_thresholds(np.exp(found.unseen), fitted.targets, how), found.fusion)


def evaluate_probabilities(scored: Said, fitted: Said, how: Decisions = Decisions()) -> dict[str, Any]:
    """What `join` is worth on `scored`: the figures of `measure`, and

    - `decisions`: for each promised accuracy the threshold, and the `coverage` and `accuracy` that it reaches (None
      where nothing is accepted);
    - `without`: the weighted F1 if all models of a kind (`text`, `image`) were missing, and that of the best left.

    Raises UsageError where the two do not speak of the same types and models.
    """
    scored = _in_the_order_of(fitted, scored)
    usable = scored.at(np.flatnonzero(scored.present.any(axis=1)))
    if not len(usable):
        raise InputError("no model says anything of the products to score")
    joined = join(usable, fitted, how)
    return {
        **measure(joined.probabilities, usable.targets, usable.codes),
        "left_out": len(scored) - len(usable),
        "models": list(scored.logs),
        "decisions": decisions(joined.probabilities, usable.targets, joined.thresholds),
        "without": _without(joined.fusion, usable),
    }


def decisions(
    probabilities: Array, targets: NDArray[np.intp], thresholds: Mapping[str, float | None]
) -> dict[str, dict[str, float | None]]:
    right, confidence = probabilities.argmax(axis=1) == targets, probabilities.max(axis=1)
    found: dict[str, dict[str, float | None]] = {}
    for accuracy, threshold in thresholds.items():
        taken = confidence >= (np.inf if threshold is None else threshold)
        found[accuracy] = {
            "threshold": threshold,
            "coverage": round(float(taken.mean()), 6),
            "accuracy": round(float(right[taken].mean()), 6) if taken.any() else None,
        }
    return found


def _arrays(file: Path) -> dict[str, NDArray[Any]]:
    try:
        # Opened here: NumPy leaves a file open in which it finds no archive.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except FileNotFoundError:
        raise InputError("is not there", where=file) from None
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"is no .npz of plain arrays: {error}", where=file) from None


def _logs(array: NDArray[Any], shape: tuple[int, int], where: str) -> Array:
    if array.shape != shape or array.dtype.kind != "f":
        raise InputError(
            f"is {array.dtype} {array.shape}; wanted are fractions {shape}: products x types", where=where
        )
    probabilities = array.astype(np.float64)
    missing = np.isnan(probabilities).all(axis=1)
    answered = probabilities[~missing]
    if not ((answered >= 0) & (answered <= 1.01)).all() or (abs(answered.sum(axis=1) - 1) > 0.01).any():
        raise InputError("has rows that are no probabilities, which lie in [0, 1] and sum to 1", where=where)
    logs = np.log(np.maximum(probabilities, SMALLEST))
    normalised: Array = logs - np.log(np.exp(logs).sum(axis=1, keepdims=True))
    return normalised


def _in_the_order_of(first: Said, other: Said) -> Said:
    if set(first.codes) != set(other.codes):
        raise UsageError("the two files are about different types: their `classes` differ")
    if list(first.logs) != list(other.logs):
        different = sorted(set(first.logs) ^ set(other.logs))
        raise UsageError(
            f"the two files have different models: {', '.join(different)}", hint="--models names those to join."
        )
    order = [other.codes.index(code) for code in first.codes]
    column = np.argsort(order)
    logs = {name: one[:, order] for name, one in other.logs.items()}
    return Said(first.codes, logs, other.present, column[other.targets])


def _sets(fitted: Said, scored: Said) -> list[list[str]]:
    """The sets of models that answer together, in either file or once a kind is missing."""
    names = np.array(list(fitted.logs))
    patterns = {tuple(one) for one in np.unique(np.concatenate([fitted.present, scored.present]), axis=0).tolist()}
    for kind in KINDS:
        of_kind = np.array([name.startswith(kind) for name in names])
        patterns |= {tuple((np.array(one) & of_kind).tolist()) for one in patterns}
    return [names[list(one)].tolist() for one in sorted(patterns) if any(one)]


def _without(fusion: StackedFusion, scored: Said) -> dict[str, dict[str, float]]:
    found = {}
    for kind, other in zip(KINDS, reversed(KINDS), strict=True):
        models = [name for name in scored.logs if name.startswith(other)]
        left = scored.of(models)
        rows = np.flatnonzero(left.present.any(axis=1))
        if models and len(models) < len(scored.logs) and len(rows):
            part = left.at(rows)
            joined = np.exp(fusion.log_probabilities(part.logs, part.present))
            alone = [measure(np.exp(part.logs[name]), part.targets, part.codes)["weighted_f1"] for name in models]
            found[kind.removesuffix("_")] = {
                "weighted_f1": measure(joined, part.targets, part.codes)["weighted_f1"],
                "best_model_alone": max(alone),
            }
    return found

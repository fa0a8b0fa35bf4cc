"""Which way of joining both models is better: their weighted sum, or a small dense head on both?

The train side cannot tell: the models know it by heart. So the validation side is cut into parts, each is predicted
by what was fitted on the others, and the lower log-loss is kept and fitted on the whole side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from aisle.model.calibration import Array
from aisle.model.fusion import DenseFusion, Fusion
from aisle.model.image import DenseHead
from aisle.training.checkpoints import Checkpoints
from aisle.training.lstm_vgg16.batches import array_batches, order_of
from aisle.training.lstm_vgg16.fitting import fit
from aisle.training.lstm_vgg16.networks import dense_arrays, fusion_head
from aisle.training.recipes import DenseFusionTraining
from aisle.training.stacking import fit_weighted_sum

Logs = Mapping[str, Array]
Targets = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Fused:
    """The better fusion, `head` if it has one, what each way is worth, and n x types probabilities of rows that
    the fusion which gave them had not seen.
    """

    fusion: Fusion
    head: keras.Model | None
    report: Mapping[str, Any]
    probabilities: Array


def choose_fusion(logs: Logs, targets: Targets, how: DenseFusionTraining, stages: Checkpoints, seed: int) -> Fused:
    """`logs` are the calibrated n x types log-probabilities of each model, for rows that all can look at."""
    folds = order_of(0, len(targets), seed) % how.folds
    unseen = {kind: np.empty_like(next(iter(logs.values()))) for kind in ("weighted_sum", "dense_head")}
    for fold in range(how.folds):
        rest, here = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        summed = fit_weighted_sum(_at(logs, rest), targets[rest])
        dense, _ = _fit_dense(_at(logs, rest), targets[rest], how, stages, f"fusion-{fold}", seed)
        for fusion in (summed, dense):
            unseen[fusion.kind][here] = _join(fusion, _at(logs, here))
    report: dict[str, Any] = {kind: _figures(one, targets) for kind, one in unseen.items()}
    kept = min(report, key=lambda kind: report[kind]["log_loss"])
    summed = fit_weighted_sum(logs, targets)
    report["weighted_sum"]["weights"] = summed.weights
    report["kept"] = kept
    if kept == summed.kind:
        return Fused(summed, None, report, np.exp(unseen[kept]))
    dense, head = _fit_dense(logs, targets, how, stages, "fusion", seed)
    return Fused(dense, head, report, np.exp(unseen[kept]))


def _fit_dense(
    logs: Logs, targets: Targets, how: DenseFusionTraining, stages: Checkpoints, stage: str, seed: int
) -> tuple[DenseFusion, keras.Model]:
    columns = DenseFusion.features(list(logs.values()))
    keras.utils.set_random_seed(seed)
    head = fusion_head(how, columns.shape[1], next(iter(logs.values())).shape[1])
    evenly = np.ones(len(targets))
    fit(
        head,
        lambda epoch: array_batches(columns, targets, evenly, order_of(epoch, len(targets), seed), how.epochs.batch),
        None,
        how.epochs,
        stages,
        stage,
        narrate=False,
    )
    return DenseFusion(list(logs), DenseHead.from_arrays(dense_arrays(head))), head


def _join(fusion: Fusion, logs: Logs) -> Array:
    rows = len(next(iter(logs.values())))
    return fusion.log_probabilities(logs, np.ones((rows, len(logs)), dtype=bool))


def _at(logs: Logs, rows: NDArray[np.intp]) -> dict[str, Array]:
    return {name: one[rows] for name, one in logs.items()}


def _figures(logs: Array, targets: Targets) -> dict[str, Any]:
    guessed = logs.argmax(axis=1)
    return {
        "rows": len(targets),
        "accuracy": float((guessed == targets).mean()),
        "weighted_f1": float(f1_score(targets, guessed, average="weighted", zero_division=0)),
        "log_loss": float(-logs[np.arange(len(targets)), targets].mean()),
    }

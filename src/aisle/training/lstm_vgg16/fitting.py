"""Fitting a network epoch by epoch, so that a run that was killed goes on and ends with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from aisle.logs import get_logger
from aisle.training.checkpoints import Arrays, Checkpoints
from aisle.training.recipes import Epochs

Batches = Any
"""A `tf.data.Dataset` of (inputs, targets, weights), or what else Keras's `fit` takes."""

MEASURES = ("loss", "accuracy", "val_loss", "val_accuracy")
History = list[dict[str, float]]


def fit(
    network: keras.Model,
    batches: Callable[[int], Batches],
    held_out: Batches | None,
    how: Epochs,
    stages: Checkpoints,
    stage: str,
    *,
    narrate: bool = True,
) -> History:
    """Fit `network`, leave it with the weights of its best epoch, and return the measures of every epoch.

    `batches(epoch)` are the rows in that epoch's order. All that a later epoch depends on is kept after each one:
    weights, the optimizer, random seeds, the best weights and the history. Without held-out rows the last epoch
    is the best.
    """
    network.compile(
        optimizer=keras.optimizers.Adam(how.rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    network.optimizer.build(network.trainable_variables)
    state = _State(network)
    if (saved := stages.load(stage)) is not None:
        state.restore(saved)
    log = get_logger(__name__)
    while not _finished(state.history, how):
        epoch = len(state.history)
        found = network.fit(batches(epoch), validation_data=held_out, epochs=1, verbose=0, shuffle=False).history
        state.add({name: float(found[name][0]) for name in MEASURES if name in found})
        stages.save(stage, state.arrays())
        if narrate:
            log.info("epoch", of=stage, epoch=epoch + 1, **{k: round(v, 4) for k, v in state.history[-1].items()})
    network.set_weights(state.best)
    return state.history


class _State:
    def __init__(self, network: keras.Model) -> None:
        self._network = network
        self.history: History = []
        self.best = network.get_weights()

    def add(self, measures: dict[str, float]) -> None:
        self.history.append(measures)
        if _best_epoch(self.history) == len(self.history) - 1:
            self.best = self._network.get_weights()

    def arrays(self) -> Arrays:
        state = {f"state_{number}": variable for number, variable in enumerate(self._variables())}
        best = {f"best_{number}": array for number, array in enumerate(self.best)}
        names = [name for name in MEASURES if name in self.history[0]]
        rows = np.array([[one[name] for name in names] for one in self.history], dtype=np.float64)
        return {**{name: np.array(one, order="C") for name, one in (state | best).items()}, "history": rows}

    def restore(self, arrays: Arrays) -> None:
        for number, variable in enumerate(self._variables()):
            variable.assign(arrays[f"state_{number}"])
        self.best = [arrays[f"best_{number}"] for number in range(len(self.best))]
        names = MEASURES[: arrays["history"].shape[1]]
        self.history = [dict(zip(names, row, strict=True)) for row in arrays["history"].tolist()]
        get_logger(__name__).info("training goes on", after_epoch=len(self.history))

    def _variables(self) -> list[keras.Variable]:
        """Weights, random seeds and the optimizer's memory, in an order that is the same in every process."""
        return [*self._network.variables, *self._network.optimizer.variables]


def best_loss(history: History) -> float:
    """The lowest log-loss of the held-out rows; infinite without such rows, or where it never was a number."""
    return min(_held_out_losses(history))


def _held_out_losses(history: History) -> list[float]:
    losses = [one.get("val_loss", np.inf) for one in history]
    return [np.inf if np.isnan(loss) else loss for loss in losses]


def _best_epoch(history: History) -> int:
    if any("val_loss" not in one for one in history):
        return len(history) - 1
    return int(np.argmin(_held_out_losses(history)))


def _finished(history: History, how: Epochs) -> bool:
    return len(history) >= how.most or (bool(history) and len(history) - 1 - _best_epoch(history) >= how.patience)

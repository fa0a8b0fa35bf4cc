"""Fine-tuning: the Trainer of the package transformers, which goes on after a kill with the last whole epoch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from aisle.logs import get_logger
from aisle.training.checkpoints import Arrays, Checkpoints
from aisle.training.examples import Rows
from aisle.training.recipes import Full, Tuning

History = list[dict[str, float]]
"""Of each epoch the mean loss, and the log-loss of the held-out rows."""

STATE_FILE = "trainer_state.json"
"""What the Trainer writes last of a checkpoint."""

LEAST_WEIGHT = 1e-6


def fit(
    network: Any,
    learnt: Dataset[Any],
    held_out: Dataset[Any] | None,
    collate: Callable[[list[Any]], Mapping[str, Tensor]],
    how: Tuning,
    folder: Path,
    seed: int,
    **further: Any,
) -> History:
    """Fit the network, which ends on the CPU, ready to predict; without `held_out` its last epoch is the one.

    Checkpoints go to `folder`.
    """
    torch.backends.cudnn.allow_tf32 = False  # what is not 16 bits wide is to be 32: the graph has no less
    judged = held_out is not None
    every = "epoch"
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=how.epochs,
        per_device_train_batch_size=how.batch,
        per_device_eval_batch_size=2 * how.batch,
        learning_rate=how.rate,
        lr_scheduler_type="linear",
        warmup_steps=how.warm_up,
        weight_decay=how.decay,
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        eval_strategy=every if judged else "no",
        save_strategy=every,
        logging_strategy=every,
        load_best_model_at_end=judged,
        metric_for_best_model="loss" if judged else None,
        greater_is_better=False if judged else None,
        save_total_limit=1,
        seed=seed,
        label_names=["labels"],
        prediction_loss_only=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        **further,
    )
    trainer = Trainer(
        model=network,
        args=arguments,
        train_dataset=learnt,
        eval_dataset=held_out,
        data_collator=collate,
        compute_loss_func=_loss,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Narrator)
    trainer.train(resume_from_checkpoint=_last_whole(folder))
    network.eval().cpu()
    return _history(trainer.state.log_history)


class _Narrator(TrainerCallback):
    """Says in the log what the package would print."""

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        get_logger(__name__).info("epoch", epoch=round(state.epoch or 0), of=int(args.num_train_epochs))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        get_logger(__name__).info("judged", **_history(state.log_history)[-1])


def finished(stages: Checkpoints, stage: str, learn: Callable[[], Arrays]) -> Arrays:
    """What `learn` gives, or gave before; of its epochs nothing is kept then."""
    found = stages.get(stage, learn)
    shutil.rmtree(stages.folder(stage), ignore_errors=True)
    return found


def wanted_of(rows: Rows, types: int, recipe: Full) -> NDArray[np.float32]:
    """n x types: what the network is to say of each row, times how much the row weighs."""
    wanted = rows.wanted if rows.wanted is not None else np.eye(types)[rows.targets]
    smooth = (1 - recipe.smoothing) * wanted + recipe.smoothing / types
    found: NDArray[np.float32] = (smooth * (rows.weights**recipe.weight_power)[:, np.newaxis]).astype(np.float32)
    return found


def _loss(outputs: Mapping[str, Tensor], labels: Tensor, num_items_in_batch: object = None) -> Tensor:
    logs = outputs["logits"].float().log_softmax(dim=1)
    return -(labels * logs).sum() / labels.sum().clamp_min(LEAST_WEIGHT)


def _last_whole(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{STATE_FILE}")]
    if not whole:
        return None
    last = max(whole, key=lambda path: int(path.name.rpartition("-")[2]))
    get_logger(__name__).info("training goes on", after_step=int(last.name.rpartition("-")[2]))
    return str(last)


def _history(logged: list[dict[str, float]]) -> History:
    epochs: dict[int, dict[str, float]] = {}
    for one in logged:
        found = {name: one[key] for key, name in (("loss", "loss"), ("eval_loss", "val_loss")) if key in one}
        if found:
            epochs.setdefault(round(one["epoch"]), {}).update(found)
    return [epochs[epoch] for epoch in sorted(epochs)]

"""The transformer of titles, from the pretrained weights to what a bundle keeps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aisle.model.calibration import Array
from aisle.model.pieces import PieceTokenizer
from aisle.model.transformer import TransformerModel
from aisle.training.checkpoints import Checkpoints
from aisle.training.e5 import read_pretrained, weights_path
from aisle.training.heads import Targets, Weights
from aisle.training.recipes import STOP_WORDS, TransformerTraining
from aisle.training.transformer import fit_transformer
from aisle.training.transformer_graph import build_graph, quantized


def learn_transformer(
    titles: Sequence[str],
    targets: Targets,
    weights: Weights,
    types: int,
    how: TransformerTraining,
    seed: int,
    stages: Checkpoints,
    wanted: Array | None = None,
) -> TransformerModel:
    """A type that no title has gets no opinion. Raises ServiceMissing where the weights are not installed."""
    pretrained = read_pretrained(weights_path(), how.layers)
    tokenizer = PieceTokenizer(pretrained.pieces, pretrained.special, how.most_pieces, STOP_WORDS)
    pieces = [tokenizer.ids(title) for title in titles]
    learnt = dict(
        stages.get(
            "train-transformer",
            lambda: fit_transformer(pretrained, pieces, targets, weights, types, how, seed, wanted),
        )
    )
    learnt["head.b"] = learnt["head.b"].copy()
    learnt["head.b"][np.setdiff1d(np.arange(types), targets)] = -np.inf
    return TransformerModel(tokenizer, quantized(build_graph(pretrained, learnt, how.layers)))

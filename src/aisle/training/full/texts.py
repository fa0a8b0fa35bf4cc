"""Readers: transformers fine-tuned on title and description, exported and compared with their exports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from aisle.files import sha256_json
from aisle.logs import get_logger
from aisle.model.classifier import TEXT
from aisle.model.pieces import PieceTokenizer
from aisle.model.transformer import TransformerModel
from aisle.training.calibrate import scores_of
from aisle.training.checkpoints import Arrays, Checkpoints
from aisle.training.examples import Examples, Rows
from aisle.training.full.fitting import History, finished, fit, wanted_of
from aisle.training.full.graphs import about, packed, reader_graph
from aisle.training.full.loading import load_reader, load_tokenizer
from aisle.training.graph import check_parity
from aisle.training.pretrained import called
from aisle.training.recipes import Full
from aisle.training.transformer_graph import quantized

CHECKED_TEXTS = 64
"""On how many texts a graph is compared with its network."""
JUDGING_TEXTS = 2_000
"""On how many held-out texts at most 8-bit integers are judged."""


@dataclass(frozen=True, slots=True)
class LearntReader:
    """What serves instead of the network, its epochs, and what is known of the graph."""

    model: TransformerModel
    history: History
    report: Mapping[str, Any]


def learn_reader(
    name: str, recipe: Full, examples: Examples, learnt: Rows, held_out: Rows, stages: Checkpoints
) -> LearntReader:
    """All rows have a text."""
    types = len(examples.codes)
    stage = f"reader-{sha256_json(name)[:12]}"
    tokenizer = load_tokenizer(name, recipe.text.most_pieces)

    def learn() -> Arrays:
        network = load_reader(name, types, recipe.seed)
        get_logger(__name__).info("fine-tuning a reader", model=called(name), rows=len(learnt))
        history = fit(
            network,
            _Texts(learnt, tokenizer, wanted_of(learnt, types, recipe), recipe.text.without_description),
            _Texts(held_out, tokenizer, wanted_of(held_out, types, recipe)) if len(held_out) else None,
            partial(_side_by_side, tokenizer.special.padding),
            recipe.text.tuning,
            stages.folder(stage),
            recipe.seed,
            train_sampling_strategy="group_by_length",
        )
        graph = reader_graph(network, tokenizer.most_pieces)
        judging = held_out if len(held_out) else learnt
        parity = _parity(network, TransformerModel(tokenizer, graph), judging.inputs.field(TEXT)[:CHECKED_TEXTS])
        graph, report = _choose_precision(tokenizer, graph, judging, recipe, examples.threads)
        known = {"history": history, "report": {"model": called(name), **report, "parity": parity}}
        return packed({"graph": np.frombuffer(graph, np.uint8)}, known)

    found = finished(stages, stage, learn)
    return LearntReader(TransformerModel(tokenizer, found["graph"].tobytes()), **about(found))


class _Texts(Dataset[Any]):
    """Pieces and what is wanted of each row; a share `without` of the descriptions is left out, by chance."""

    def __init__(
        self, rows: Rows, tokenizer: PieceTokenizer, wanted: NDArray[np.float32], without: float = 0.0
    ) -> None:
        inputs = rows.inputs
        self._whole = [tokenizer.ids(text) for text in inputs.field(TEXT)]
        both = zip(inputs.titles, inputs.descriptions, self._whole, strict=True)
        self._titles = [tokenizer.ids(title) if title and text and without else ids for title, text, ids in both]
        self._wanted, self._without = wanted, without

    def __len__(self) -> int:
        return len(self._whole)

    def __getitem__(self, row: int) -> dict[str, NDArray[Any]]:
        shorter = self._without and torch.rand(()) < self._without
        return {"input_ids": (self._titles if shorter else self._whole)[row], "labels": self._wanted[row]}


def _side_by_side(padding: int, rows: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, Tensor]:
    pieces = [torch.from_numpy(row["input_ids"]) for row in rows]
    there = [torch.ones_like(one) for one in pieces]
    return {
        "input_ids": pad_sequence(pieces, batch_first=True, padding_value=padding),
        "attention_mask": pad_sequence(there, batch_first=True),
        "labels": torch.from_numpy(np.stack([row["labels"] for row in rows])),
    }


def _parity(network: Any, model: TransformerModel, texts: Sequence[str]) -> float:
    with torch.no_grad():
        alone = [network(torch.from_numpy(model.tokenizer.ids(text)[np.newaxis])).logits for text in texts]
    return check_parity("reader", model.scores(texts), torch.cat(alone).numpy())


def _choose_precision(
    tokenizer: PieceTokenizer, graph: bytes, rows: Rows, recipe: Full, threads: int
) -> tuple[bytes, dict[str, Any]]:
    """The graph that serves, 8-bit integers if the held-out rows hardly notice, and the figures of both."""
    rows = rows.at(np.arange(min(len(rows), JUDGING_TEXTS)))
    graphs = {"fp32": graph, "int8": quantized(graph)}
    report: dict[str, Any] = {}
    for precision, one in graphs.items():
        guessed = scores_of(TransformerModel(tokenizer, one), TEXT, rows, threads).argmax(axis=1)
        f1 = float(f1_score(rows.targets, guessed, average="weighted", zero_division=0))
        report[precision] = {"weighted_f1": f1, "bytes": len(one)}
    loss = report["fp32"]["weighted_f1"] - report["int8"]["weighted_f1"]
    report["kept"] = "int8" if loss <= recipe.int8_loss else "fp32"
    return graphs[report["kept"]], report

"""Fine-tuned networks as ONNX graphs, written by PyTorch's exporter."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aisle.files import to_json
from aisle.training.checkpoints import Arrays
from aisle.training.full.loading import Viewer
from aisle.training.transformer_graph import without_small_talk

ABOUT = "about"
SHORTEST = 2
"""A text has at least the pieces for begin and end."""


class Reading(nn.Module):
    """One text, of which nothing is padding."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pieces: Tensor) -> Tensor:
        scores: Tensor = self.network(input_ids=pieces, attention_mask=torch.ones_like(pieces)).logits
        return scores


class Viewing(nn.Module):
    """The features of all viewers, side by side."""

    def __init__(self, viewers: list[Viewer]) -> None:
        super().__init__()
        self.viewers = nn.ModuleList(viewers)

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.cat([viewer(pixels)["logits"] for viewer in self.viewers], dim=1)


def reader_graph(network: Any, most_pieces: int) -> bytes:
    """`pieces` (1 x pieces, int64) → `scores` (1 x types)."""
    length = torch.export.Dim("pieces", min=SHORTEST, max=most_pieces)
    some = torch.full((1, max(SHORTEST, most_pieces // 2)), 4)
    network.set_attn_implementation("eager")
    return _exported(Reading(network), some, "pieces", "scores", {"pieces": {1: length}})


def viewers_graph(viewers: list[Viewer], size: int) -> bytes:
    """`pixels` (1 x size x size x 3, uint8) → `features` of the viewers without their heads, side by side."""
    for viewer in viewers:
        viewer.network.set_attn_implementation("eager")
    pixels = torch.zeros((1, size, size, 3), dtype=torch.uint8)
    return _exported(Viewing(viewers), pixels, "pixels", "features", None)


def _exported(network: nn.Module, given: Tensor, takes: str, gives: str, shapes: dict[str, Any] | None) -> bytes:
    with warnings.catch_warnings(), without_small_talk(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.eval(),
            (given,),
            input_names=[takes],
            output_names=[gives],
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise AssertionError("without a file the exporter gives the graph")
    model = program.model_proto
    model.ClearField("metadata_props")
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.ClearField("metadata_props")  # where in whose files each node was written
        part.ClearField("doc_string")
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def packed(arrays: Arrays, about: Any) -> Arrays:
    """What a network learnt, and what is known of it, as checkpoints keep them."""
    return {**arrays, ABOUT: np.frombuffer(to_json(about).encode(), np.uint8)}


def about(arrays: Arrays) -> Any:
    return json.loads(arrays[ABOUT].tobytes())

"""Pretrained networks with a new last layer, from the hub or a folder, and how they take texts and images."""

from __future__ import annotations

import json
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.image_processing_base import ImageProcessingMixin

from aisle.errors import ServiceMissing, UsageError
from aisle.model.image import DenseHead
from aisle.model.pieces import PieceTokenizer, Special
from aisle.training.pretrained import place_of

LARGEST_GRAPH = 2_000_000_000
"""Bytes: a graph is one message of Protocol Buffers."""
GREY = 0.5
"""Mean and deviation of pixels for a network that does not say what it wants."""


def load_tokenizer(name: str, most_pieces: int) -> PieceTokenizer:
    """What trains and serves with a network of texts.

    Raises ServiceMissing where it is not to be had, UsageError for one that cuts texts otherwise.
    """
    config = _load(transformers.AutoConfig, name)
    tokenizer = _load(transformers.AutoTokenizer, name)
    table = json.loads(tokenizer.backend_tokenizer.to_str())["model"] if tokenizer.is_fast else {}
    if table.get("type") != "Unigram":
        raise UsageError(
            f"the model {name} does not read pieces of SentencePiece's unigram model",
            hint="CamemBERT, XLM-R and their kin do.",
        )
    places = config.max_position_embeddings - 1 - (config.pad_token_id or 0)
    added = tokenizer.num_special_tokens_to_add
    return PieceTokenizer(
        [(piece, log) for piece, log in table["vocab"]],
        Special(tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id),
        min(most_pieces, places),
        cased=True,
        between=[tokenizer.sep_token_id] * (added(pair=True) - added(pair=False)),
    )


def load_reader(name: str, types: int, seed: int) -> Any:
    """A network of texts. Raises ServiceMissing where it is not to be had, UsageError for one that is too large."""
    network = _load(transformers.AutoModelForSequenceClassification, name, seed, **_with_head(types))
    check_size(network)
    return network


def check_size(*networks: nn.Module) -> None:
    """Raises UsageError, before anything is trained, where one graph cannot hold the networks."""
    size = sum(weight.numel() * weight.element_size() for network in networks for weight in network.parameters())
    if size > LARGEST_GRAPH:
        raise UsageError(
            f"{size / 1e9:.1f} GB of weights do not fit into one ONNX graph, which holds 2 GB",
            hint="Choose smaller models, or fewer of images.",
        )


class Viewer(nn.Module):
    """A network of images behind `pixels` (n x size x size x 3, uint8), scaled to the size that it knows.

    Raises ServiceMissing where it is not to be had, UsageError where its last layer is no dense one.
    """

    def __init__(self, name: str, types: int, size: int, seed: int) -> None:
        super().__init__()
        self.network = _load(transformers.AutoModelForImageClassification, name, seed, **_with_head(types))
        if not isinstance(getattr(self.network, "classifier", None), nn.Linear):
            raise UsageError(f"the last layer of the model {name} is no dense one", hint="ConvNeXt, Swin and ViT do.")
        self.types = types
        config = self.network.config
        own = getattr(getattr(config, "vision_config", config), "image_size", None)
        self._size = own if own not in (size, None) else None
        wanted = _pixels_of(name)
        for part in ("mean", "std"):
            values = torch.tensor(wanted.get(f"image_{part}", [GREY] * 3), dtype=torch.float32)
            self.register_buffer(part, values.reshape(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        x = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255
        if self._size is not None:
            x = nn.functional.interpolate(x, size=(self._size, self._size), mode="bilinear")
        return {"logits": self.network(pixel_values=(x - self.mean) / self.std).logits}

    def without_head(self) -> DenseHead:
        """Take the last layer off, so that the features come out."""
        head = self.network.classifier
        self.network.classifier = nn.Identity()
        return DenseHead(head.weight.detach().numpy().T, head.bias.detach().numpy())


def _pixels_of(name: str) -> dict[str, Any]:
    place, revision = place_of(name)
    try:
        return dict(ImageProcessingMixin.get_image_processor_dict(place, revision=revision)[0])
    except (OSError, ValueError):
        return {}


def _with_head(types: int) -> dict[str, Any]:
    return {"num_labels": types, "dtype": torch.float32, "ignore_mismatched_sizes": True}


def _load(kind: Any, name: str, seed: int = 0, **choices: Any) -> Any:
    """From the hub or a folder; what is not in the pretrained weights is drawn by the seed."""
    place, revision = place_of(name)
    transformers.logging.set_verbosity_error()  # it lists the layers that are new
    transformers.utils.logging.disable_progress_bar()
    transformers.set_seed(seed)
    try:
        return kind.from_pretrained(place, revision=revision, **choices)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ServiceMissing(
            f"the model {name} can be loaded neither from a folder nor from the hub ({reason})",
            hint="Give the folder of a model that was downloaded before: docs/full.md says how.",
        ) from None

"""Viewers: image networks fine-tuned on the pictures, joined to one encoder and one dense head.

Each ends with a dense layer on its features. So the features of all, and the layers of all, each by its weight, are
one dense head, whose scores are the weighted sum of the viewers' scores: their log-linear pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import minimize
from sklearn.metrics import f1_score
from torch import Tensor
from torch.utils.data import Dataset

from aisle.data.images import Images
from aisle.data.split import Side
from aisle.files import sha256_json
from aisle.inputs.image import Pixels, decode
from aisle.logs import get_logger
from aisle.model.calibration import Array, log_softmax
from aisle.model.classifier import IMAGE
from aisle.model.image import DenseHead, Features, ImageEncoder
from aisle.training.checkpoints import Arrays, Checkpoints
from aisle.training.examples import Examples, Rows
from aisle.training.full.fitting import History, finished, fit, wanted_of
from aisle.training.full.graphs import Viewing, about, packed, viewers_graph
from aisle.training.full.loading import Viewer, check_size
from aisle.training.graph import check_parity
from aisle.training.pretrained import called
from aisle.training.recipes import Full
from aisle.training.stacking import EQUAL_ROWS

CHECKED_IMAGES = 4
"""On how many images the graph is compared with the networks."""
IMAGES_AT_ONCE = 128
MARGIN = 8 / 7
"""So much larger than the network's images are those that parts are taken from."""
MOST_STRETCHED = 4 / 3


@dataclass(frozen=True, slots=True)
class LearntImages:
    """The encoder's graph, the head on its features, and the epochs and figures of each network."""

    graph: bytes
    head: DenseHead
    history: Mapping[str, History]
    report: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Pictured:
    """The rows of a side that have an image, and the images' names."""

    rows: Rows
    names: Sequence[str]

    @classmethod
    def of(cls, examples: Examples, side: Side) -> _Pictured:
        names = examples.image_names(side)
        here = np.array([row for row, name in enumerate(names) if name is not None], dtype=np.intp)
        return cls(examples.rows(side, graph=None).at(here), [name for name in names if name is not None])


def learn_viewers(recipe: Full, examples: Examples, stages: Checkpoints) -> LearntImages | None:
    """None where fewer than two types have an image."""
    images, how, types = examples.prepared.images(), recipe.image, len(examples.codes)
    if images is None or not how.models:
        return None
    learnt, held_out = (_Pictured.of(examples, side) for side in (Side.TRAIN, Side.VALIDATION))
    if len(np.unique(learnt.rows.targets)) < 2:
        return None
    viewers = [Viewer(name, types, how.size, recipe.seed) for name in how.models]
    check_size(*viewers)
    history = {
        f"{IMAGE}_{number}": _learn_viewer(name, viewer, recipe, images, learnt, held_out, stages, examples.threads)
        for number, (name, viewer) in enumerate(zip(how.models, viewers, strict=True), start=1)
    }
    pixels = [decode(images.read(name), how.size) for name in learnt.names[:CHECKED_IMAGES]]
    graph, heads, parity = _exported(viewers, how.size, pixels)
    if torch.cuda.is_available():
        encode_ahead(viewers, graph, heads, how.size, examples, torch.device("cuda"))
    rows = examples.rows(Side.VALIDATION, graph=graph)
    targets = rows.targets[rows.inputs.has(IMAGE)]
    scores = _each([one for one in rows.inputs.features if one is not None], heads)
    weights = _pool_weights(scores, targets)
    head = DenseHead(
        np.concatenate([weight * one.weights for weight, one in zip(weights, heads, strict=True)]),
        np.sum([weight * one.bias for weight, one in zip(weights, heads, strict=True)], axis=0),
    )
    networks = [
        {"model": called(name), "weight": weight, "weighted_f1": _weighted_f1(one, targets)}
        for name, weight, one in zip(how.models, weights, scores, strict=True)
    ]
    return LearntImages(graph, head, history, {"networks": networks, "bytes": len(graph), "parity": parity})


def _exported(viewers: list[Viewer], size: int, pixels: Sequence[Pixels]) -> tuple[bytes, list[DenseHead], float]:
    """One graph of all features, each network's head, and how far both are from the networks in probability."""
    expected = [_scores(viewer, pixels) for viewer in viewers]
    heads = [viewer.without_head() for viewer in viewers]
    graph = viewers_graph(viewers, size)
    encoder = ImageEncoder(graph)
    exported = _each([encoder.encode(one) for one in pixels], heads)
    compared = zip(exported, expected, strict=True)
    return graph, heads, max(check_parity("image network", *both) for both in compared)


def encode_ahead(
    viewers: list[Viewer],
    graph: bytes,
    heads: Sequence[DenseHead],
    size: int,
    examples: Examples,
    device: torch.device,
) -> None:
    """The features of all images, by the networks themselves: a GPU needs minutes where the graph needs hours.

    Raises BundleError where they are not the graph's.
    """
    images = examples.prepared.images()
    pictured = dict(examples.table.drop_nulls("image").select("image_sha256", "image").iter_rows())
    if images is None:
        return
    get_logger(__name__).info("encoding images", to_encode=len(pictured), on=str(device))
    network, encoder = Viewing(viewers).eval().to(device), ImageEncoder(graph)
    names = list(pictured.items())
    with ThreadPoolExecutor(examples.threads) as pool, torch.no_grad():
        for start in range(0, len(names), IMAGES_AT_ONCE):
            some = names[start : start + IMAGES_AT_ONCE]
            pixels = list(pool.map(lambda one: decode(images.read(one[1]), size), some))
            features = network(torch.from_numpy(np.stack(pixels)).to(device)).cpu().numpy()
            if start == 0:
                few = [encoder.encode(one) for one in pixels[:CHECKED_IMAGES]]
                compared = zip(_each(few, heads), _each(list(features[: len(few)]), heads), strict=True)
                for both in compared:
                    check_parity("image network", *both)
            examples.know(graph, {sha256: one for (sha256, _), one in zip(some, features, strict=True)})


def _learn_viewer(
    name: str,
    viewer: Viewer,
    recipe: Full,
    images: Images,
    learnt: _Pictured,
    held_out: _Pictured,
    stages: Checkpoints,
    threads: int,
) -> History:
    """The viewer knows afterwards what it learnt."""
    how, types = recipe.image, viewer.types
    stage = f"viewer-{sha256_json(name)[:12]}"

    def learn() -> Arrays:
        get_logger(__name__).info("fine-tuning an image network", model=called(name), images=len(learnt.names))
        with ThreadPoolExecutor(threads) as pool:
            sides = [
                _Pictures(images, one, wanted_of(one.rows, types, recipe), how.size, part, pool)
                for one, part in ((learnt, how.smallest_part), (held_out, None))
            ]
            judged = sides[1] if len(held_out.names) else None
            folder = stages.folder(stage)
            history = fit(viewer, sides[0], judged, _side_by_side, how.tuning, folder, recipe.seed)
        return packed({name: one.numpy() for name, one in viewer.state_dict().items()}, history)

    found = dict(finished(stages, stage, learn))
    viewer.load_state_dict({name: torch.from_numpy(found[name]) for name in viewer.state_dict()})
    viewer.eval()
    history: History = about(found)
    return history


class _Pictures(Dataset[Any]):
    """Pixels and what is wanted of each row. While learning, of a part of the image, or of its mirror image."""

    def __init__(
        self,
        images: Images,
        pictured: _Pictured,
        wanted: NDArray[np.float32],
        size: int,
        smallest_part: float | None,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._images, self._names, self._wanted = images, pictured.names, wanted
        self._size, self._smallest, self._pool = size, smallest_part, pool

    def __len__(self) -> int:
        return len(self._names)

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, NDArray[Any]]]:
        """A batch, decoded on several threads; all chance is drawn before."""
        chances = torch.rand((len(rows), 5)).tolist()
        pixels = self._pool.map(self._look, rows, chances)
        return [{"pixels": one, "labels": self._wanted[row]} for row, one in zip(rows, pixels, strict=True)]

    def __getitem__(self, row: int) -> dict[str, NDArray[Any]]:
        return self.__getitems__([row])[0]

    def _look(self, row: int, chance: Sequence[float]) -> Pixels:
        content = self._images.read(self._names[row])
        if self._smallest is None:
            return decode(content, self._size)
        return part_of(decode(content, round(MARGIN * self._size)), self._size, self._smallest, chance)


def part_of(pixels: Pixels, size: int, smallest: float, chance: Sequence[float]) -> Pixels:
    """`size` x `size` pixels of a part of at least the share `smallest` of a square image, or of its mirror image.

    `chance` are five numbers in [0, 1): how large, how stretched, where from, and whether mirrored.
    """
    side = len(pixels)
    area = smallest + (1 - smallest) * chance[0]
    stretch = MOST_STRETCHED ** (chance[1] - 0.5)
    width, height = (min(side, side * np.sqrt(area) * one) for one in (stretch, 1 / stretch))
    left, top = (side - width) * chance[2], (side - height) * chance[3]
    box = (left, top, left + width, top + height)
    part = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box=box))
    return np.ascontiguousarray(part[:, ::-1]) if chance[4] < 0.5 else part


def _side_by_side(rows: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in ("pixels", "labels")}


def _scores(viewer: Viewer, pixels: Sequence[Pixels]) -> NDArray[np.float32]:
    with torch.no_grad():
        scores: NDArray[np.float32] = viewer(torch.from_numpy(np.stack(pixels)))["logits"].numpy()
    return scores


def _each(features: Sequence[Features], heads: Sequence[DenseHead]) -> list[NDArray[np.float32]]:
    """The scores of each network, from the features of all side by side."""
    ends = np.cumsum([len(head.weights) for head in heads])[:-1]
    parts = zip(*(np.split(one, ends) for one in features), strict=True) if len(features) else [[]] * len(heads)
    return [head.scores(list(part)) for head, part in zip(heads, parts, strict=True)]


def _pool_weights(scores: Sequence[NDArray[np.float32]], targets: NDArray[np.intp]) -> list[float]:
    """With the lowest log-loss of the held-out rows; a few rows' worth of equal weights holds them together."""
    equal = np.full(len(scores), 1 / len(scores))
    stacked = np.stack(scores).astype(np.float64)
    rows = np.arange(len(targets))

    def loss(weights: Array) -> float:
        logs = log_softmax(np.tensordot(weights, stacked, axes=1))
        return float(-logs[rows, targets].sum() + EQUAL_ROWS * ((weights - equal) ** 2).sum())

    if len(targets) and len(scores) > 1:
        equal = minimize(loss, equal, bounds=[(0, None)] * len(scores)).x
    return [float(weight) for weight in equal]


def _weighted_f1(scores: NDArray[np.float32], targets: NDArray[np.intp]) -> float:
    if not len(targets):
        return 0.0
    return float(f1_score(targets, scores.argmax(axis=1), average="weighted", zero_division=0))

"""The image half: VGG16's features, computed once; a head on them; perhaps its last block; the graphs that serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from sklearn.metrics import f1_score

from aisle.data.split import Side
from aisle.inputs.image import Pixels, decode
from aisle.logs import get_logger
from aisle.model.classifier import IMAGE
from aisle.model.image import DenseHead, Features, ImageEncoder
from aisle.training.checkpoints import Checkpoints
from aisle.training.examples import Examples, Rows
from aisle.training.graph import check_parity
from aisle.training.lstm_vgg16.batches import array_batches, image_batches, order_of, trust, weights_of
from aisle.training.lstm_vgg16.fitting import Batches, History, best_loss, fit
from aisle.training.lstm_vgg16.graphs import vgg16_graph
from aisle.training.lstm_vgg16.networks import dense_arrays, image_head, image_network, vgg16_encoder
from aisle.training.lstm_vgg16.quantize import quantized
from aisle.training.recipes import LstmVgg16

CHECKED_IMAGES = 4
"""On how many images the graph is compared with its network."""

CALIBRATION_IMAGES = 48
FINE_TUNED_BLOCK = "block5"
FINE_TUNING = "image-fine-tuning"


@dataclass(frozen=True, slots=True)
class LearntImage:
    """The network, and what serves instead of it: the encoder's graph and the head. `report` is about the graph."""

    network: keras.Model
    head: DenseHead
    graph: bytes
    history: Mapping[str, History]
    report: Mapping[str, Any]


def learn_image(recipe: LstmVgg16, examples: Examples, stages: Checkpoints) -> LearntImage | None:
    """None where fewer than two types have an image."""
    how, seed, types = recipe.image, recipe.seed, len(examples.codes)
    keras.utils.set_random_seed(seed)
    encoder = vgg16_encoder(how)
    graph = vgg16_graph(encoder)
    examples.encode(graph, Side.TRAIN, Side.VALIDATION)
    train, held_out = (_with_image(examples, side, graph) for side in (Side.TRAIN, Side.VALIDATION))
    if len(np.unique(train.targets)) < 2:
        return None
    get_logger(__name__).info("fitting the image head", rows=len(train))
    features, held_features = _stack(train), _stack(held_out)
    keras.utils.set_random_seed(seed)
    head = image_head(how, features, types)
    weights, batch = weights_of(train, types, recipe), how.epochs.batch
    validation = None
    if len(held_out):
        in_order = np.arange(len(held_out))
        validation = array_batches(held_features, held_out.targets, trust(held_out, recipe), in_order, batch)
    history = {
        IMAGE: fit(
            head,
            lambda epoch: array_batches(features, train.targets, weights, order_of(epoch, len(train), seed), batch),
            validation,
            how.epochs,
            stages,
            IMAGE,
        )
    }
    tuning: dict[str, Any] = {}
    if how.fine_tuning.most:
        to_beat = best_loss(history[IMAGE])
        history[FINE_TUNING], tuning["fine_tuned"] = _fine_tune(
            recipe, examples, encoder, head, features, stages, to_beat
        )
        graph = vgg16_graph(encoder)
    served = DenseHead.from_arrays(dense_arrays(head))
    network = image_network(encoder, head)
    names = [name for name in examples.image_names(Side.TRAIN) if name is not None][:CALIBRATION_IMAGES]
    pixels = [decode(examples.image(name), how.size) for name in names]
    parity = _parity(network, graph, served, pixels[:CHECKED_IMAGES])
    graph, report = _choose_precision(recipe, examples, graph, served, pixels)
    return LearntImage(network, served, graph, history, {**report, **tuning, "parity": parity})


def _fine_tune(
    recipe: LstmVgg16,
    examples: Examples,
    encoder: keras.Model,
    head: keras.Model,
    features: Features,
    stages: Checkpoints,
    to_beat: float,
) -> tuple[History, bool]:
    """Train VGG16's last block and the head on the pixels, on a GPU in half precision.

    Both get the new weights, if these lower the log-loss of the held-out rows, which was `to_beat`.
    """
    how = recipe.image
    with _half_precision_on_a_gpu():
        tuned_encoder = vgg16_encoder(how)
        tuned_head = image_head(how, features, len(examples.codes))
        tuned_encoder.set_weights(encoder.get_weights())
        tuned_head.set_weights(head.get_weights())
        for layer in tuned_encoder.get_layer("vgg16").layers:
            layer.trainable = layer.name.startswith(FINE_TUNED_BLOCK)
        get_logger(__name__).info("fine-tuning the image network", block=FINE_TUNED_BLOCK)
        validation = _images(recipe, examples, Side.VALIDATION)
        history = fit(
            image_network(tuned_encoder, tuned_head),
            _images(recipe, examples, Side.TRAIN),
            validation(0) if examples.prepared.counts[Side.VALIDATION.value] else None,
            how.fine_tuning,
            stages,
            FINE_TUNING,
        )
    is_better = best_loss(history) < to_beat
    if is_better or to_beat == np.inf:
        encoder.set_weights(tuned_encoder.get_weights())
        head.set_weights(tuned_head.get_weights())
    else:
        get_logger(__name__).warning("fine-tuning did not help, VGG16 stays as it was", log_loss=to_beat)
    return history, is_better


def _images(recipe: LstmVgg16, examples: Examples, side: Side) -> Callable[[int], Batches]:
    """The images of a side, in an order of its own in every epoch if that is the train side."""
    rows, stems = examples.rows(side, graph=None), examples.image_names(side)
    here = np.array([row for row, stem in enumerate(stems) if stem is not None], dtype=np.intp)
    names = [stem for stem in stems if stem is not None]
    rows, learning = rows.at(here), side == Side.TRAIN
    weights = weights_of(rows, len(examples.codes), recipe) if learning else trust(rows, recipe)

    def in_epoch(epoch: int) -> Batches:
        return image_batches(
            lambda row: examples.image(names[row]),
            recipe.image.size,
            rows.targets,
            weights,
            order_of(epoch, len(rows), recipe.seed) if learning else np.arange(len(rows)),
            recipe.image.fine_tuning.batch,
            threads=examples.threads,
        )

    return in_epoch


def _choose_precision(
    recipe: LstmVgg16, examples: Examples, graph: bytes, head: DenseHead, pixels: list[Pixels]
) -> tuple[bytes, dict[str, Any]]:
    """The graph that serves, 8-bit integers if the validation side hardly notices, and the figures of both."""
    get_logger(__name__).info("measuring VGG16 with 8-bit integers", calibrated_on=len(pixels))
    graphs = {"fp32": graph, "int8": quantized(graph, pixels)}
    report: dict[str, Any] = {}
    for precision, one in graphs.items():
        rows = _with_image(examples, Side.VALIDATION, one)
        guessed = head.scores(_stack(rows)).argmax(axis=1)
        f1 = float(f1_score(rows.targets, guessed, average="weighted", zero_division=0)) if len(rows) else 0.0
        report[precision] = {"weighted_f1": f1, "bytes": len(one)}
    loss = report["fp32"]["weighted_f1"] - report["int8"]["weighted_f1"]
    report["kept"] = "int8" if loss <= recipe.int8_loss else "fp32"
    return graphs[report["kept"]], report


def _parity(network: keras.Model, graph: bytes, head: DenseHead, pixels: list[Pixels]) -> float:
    encoder = ImageEncoder(graph)
    exported = head.scores([encoder.encode(one) for one in pixels])
    expected = network(np.stack(pixels).astype(np.float32), training=False)
    return check_parity("image network", exported, keras.ops.convert_to_numpy(expected))


def _with_image(examples: Examples, side: Side, graph: bytes) -> Rows:
    rows = examples.rows(side, graph=graph)
    return rows.at(np.flatnonzero(rows.inputs.has(IMAGE)))


def _stack(rows: Rows) -> Features:
    features = [one for one in rows.inputs.features if one is not None]
    return np.stack(features) if features else np.empty((0, 0), np.float32)


@contextmanager
def _half_precision_on_a_gpu() -> Iterator[None]:
    """Where sums are many and the hardware is made for it; elsewhere it only costs accuracy."""
    before = keras.mixed_precision.dtype_policy()
    if _has_gpu():
        keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        yield
    finally:
        keras.mixed_precision.set_dtype_policy(before)


def _has_gpu() -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf  # noqa: PLC0415  another backend does without

    return bool(tf.config.list_physical_devices("GPU"))

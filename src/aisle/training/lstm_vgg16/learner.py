"""The recipe `lstm-vgg16`, learnt: text and image network, their export, and the fusion that joins them.

The networks are fitted on the train side; when to stop, temperatures, fusion, thresholds, and whether VGG16 serves
with 8-bit integers, are decided by the validation side.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from aisle.data.split import Side
from aisle.inputs.image import Pixels, decode
from aisle.logs import get_logger
from aisle.model.calibration import Array, log_softmax
from aisle.model.classifier import IMAGE, TEXT, Classifier, Models
from aisle.model.fusion import Fusion, fit_weighted_sum
from aisle.model.image import DenseHead, Features, ImageEncoder
from aisle.model.sequence import SequenceModel, WordTokenizer
from aisle.training.calibrate import calibrated_scores, decision_thresholds
from aisle.training.checkpoints import Checkpoints
from aisle.training.examples import Examples, Rows
from aisle.training.heads import rarity
from aisle.training.learner import Learnt, nothing_to_learn
from aisle.training.lstm_vgg16.batches import array_batches, image_batches, order_of, text_batches
from aisle.training.lstm_vgg16.fitting import Batches, History, fit
from aisle.training.lstm_vgg16.fusing import choose_fusion
from aisle.training.lstm_vgg16.graphs import check_parity, lstm_graph, vgg16_graph
from aisle.training.lstm_vgg16.networks import (
    classifier_network,
    concatenate_network,
    dense_arrays,
    image_head,
    image_network,
    text_network,
    vgg16_encoder,
)
from aisle.training.lstm_vgg16.quantize import quantized
from aisle.training.recipes import LstmVgg16

CHECKED_TEXTS, CHECKED_IMAGES = 256, 4
"""How many held-out products the exported graphs are compared with their networks on."""

CALIBRATION_IMAGES = 48
FINE_TUNED_BLOCK = "block5"


@dataclass
class _Network:
    """A fitted network, and the part of a bundle that it became."""

    network: keras.Model
    history: Mapping[str, History]
    parity: float


class LstmVgg16Learner:
    def __init__(self, recipe: LstmVgg16) -> None:
        self._recipe = recipe

    def learn(self, examples: Examples, stages: Checkpoints) -> Learnt:
        _prepare_keras()
        train, held_out = (examples.rows(side, graph=None) for side in (Side.TRAIN, Side.VALIDATION))
        text = text_model = None
        if len(np.unique(train.targets[train.inputs.has(TEXT)])) > 1:
            text, text_model = self._learn_text(train, held_out, len(examples.codes), stages)
        image = None
        if examples.prepared.images_path is not None:
            image = self._learn_image(examples, stages)
        if text is None and image is None:
            raise nothing_to_learn()
        return self._fuse(examples, stages, text, text_model, image)

    def _learn_text(
        self, train: Rows, held_out: Rows, types: int, stages: Checkpoints
    ) -> tuple[_Network, SequenceModel]:
        how, seed = self._recipe.text, self._recipe.seed
        train, held_out = (rows.at(np.flatnonzero(rows.inputs.has(TEXT))) for rows in (train, held_out))
        texts = [list(rows.inputs.field(TEXT)) for rows in (train, held_out)]
        tokenizer = WordTokenizer.fit(
            texts[0], vocabulary=how.vocabulary, max_words=how.max_words, stop_words=how.stop_words
        )
        words = [[tokenizer.ids(text) for text in part] for part in texts]
        get_logger(__name__).info("fitting the text network", rows=len(train), words=tokenizer.size)
        keras.utils.set_random_seed(seed)
        network = text_network(how, tokenizer.size, types)
        weights = self._weights(train, types)
        in_order = np.arange(len(held_out))
        validation = text_batches(words[1], held_out.targets, self._trust(held_out), in_order, how.epochs.batch)
        history = fit(
            network,
            lambda epoch: text_batches(
                words[0], train.targets, weights, order_of(epoch, len(train), seed), how.epochs.batch
            ),
            validation if len(held_out) else None,
            how.epochs,
            stages,
            TEXT,
        )
        model = SequenceModel(tokenizer, lstm_graph(network))
        parity = 0.0
        if some := texts[1][:CHECKED_TEXTS]:
            rows = [network(tokenizer.ids(one)[np.newaxis].astype(np.int32), training=False) for one in some]
            expected = np.concatenate([keras.ops.convert_to_numpy(row) for row in rows])
            parity = check_parity("text network", _softmax(model.scores(some)), _softmax(expected))
        return _Network(network, {TEXT: history}, parity), model

    def _learn_image(self, examples: Examples, stages: Checkpoints) -> _Image | None:
        how, seed, types = self._recipe.image, self._recipe.seed, len(examples.codes)
        keras.utils.set_random_seed(seed)
        encoder = vgg16_encoder(how)
        graph = vgg16_graph(encoder)
        examples.encode(graph, Side.TRAIN, Side.VALIDATION)
        train, held_out = (
            rows.at(np.flatnonzero(rows.inputs.has(IMAGE)))
            for rows in (examples.rows(side, graph=graph) for side in (Side.TRAIN, Side.VALIDATION))
        )
        if len(np.unique(train.targets)) < 2:
            return None
        get_logger(__name__).info("fitting the image head", rows=len(train))
        features, held = (_stack(rows) for rows in (train, held_out))
        keras.utils.set_random_seed(seed)
        head = image_head(how, features, types)
        weights, trust = self._weights(train, types), self._trust(held_out)
        in_order = np.arange(len(held_out))
        history = {
            IMAGE: fit(
                head,
                lambda epoch: array_batches(
                    features, train.targets, weights, order_of(epoch, len(train), seed), how.epochs.batch
                ),
                array_batches(held, held_out.targets, trust, in_order, how.epochs.batch) if len(held_out) else None,
                how.epochs,
                stages,
                IMAGE,
            )
        }
        network = image_network(encoder, head)
        if how.fine_tuning.most:
            history["image-fine-tuning"] = self._fine_tune(examples, network, encoder, stages)
            graph = vgg16_graph(encoder)
        return _Image(network, history, encoder, head, graph)

    def _fine_tune(
        self, examples: Examples, network: keras.Model, encoder: keras.Model, stages: Checkpoints
    ) -> History:
        """Train VGG16's last block and the head on the pixels."""
        how, seed = self._recipe.image, self._recipe.seed
        for layer in encoder.get_layer("vgg16").layers:
            layer.trainable = layer.name.startswith(FINE_TUNED_BLOCK)

        def batches(side: Side) -> Callable[[int], Batches]:
            rows = examples.rows(side, graph=None)
            stems = examples.image_names(side)
            here = np.array([row for row, stem in enumerate(stems) if stem is not None], dtype=np.intp)
            rows = rows.at(here)
            weights = self._weights(rows, len(examples.codes)) if side == Side.TRAIN else self._trust(rows)

            def in_epoch(epoch: int) -> Batches:
                order = order_of(epoch, len(rows), seed) if side == Side.TRAIN else np.arange(len(rows))
                return image_batches(
                    lambda row: examples.image(stems[here[row]]),
                    how.size,
                    rows.targets,
                    weights,
                    order,
                    how.fine_tuning.batch,
                    threads=examples.threads,
                )

            return in_epoch

        get_logger(__name__).info("fine-tuning the image network", block=FINE_TUNED_BLOCK)
        validation = batches(Side.VALIDATION)(0)
        has_rows = examples.prepared.counts[Side.VALIDATION.value] > 0
        return fit(
            network,
            batches(Side.TRAIN),
            validation if has_rows else None,
            how.fine_tuning,
            stages,
            "image-fine-tuning",
        )

    def _fuse(
        self,
        examples: Examples,
        stages: Checkpoints,
        text: _Network | None,
        text_model: SequenceModel | None,
        image: _Image | None,
    ) -> Learnt:
        recipe, types = self._recipe, len(examples.codes)
        texts = {TEXT: text_model} if text_model is not None else {}
        head = DenseHead.from_arrays(dense_arrays(image.head)) if image is not None else None
        models = Models(texts, head)
        report: dict[str, Any] = {}
        graph = None
        if image is not None:
            graph, report["image_encoder"] = self._choose_precision(examples, models, image)
        held_out = examples.rows(Side.VALIDATION, graph=graph)
        temperatures, logs = calibrated_scores(models, held_out, types)
        present = models.present(held_out.inputs)
        both = np.flatnonzero(present.all(axis=1))
        fusion_network = None
        fusion: Fusion
        if len(models.names()) == 2 and len(both) >= recipe.fusion.folds:
            fused = choose_fusion(
                {name: one[both] for name, one in logs.items()},
                held_out.targets[both],
                recipe.fusion,
                stages,
                recipe.seed,
            )
            fusion, fusion_network = fused.fusion, fused.head
            report["fusion"] = fused.report
            probabilities = np.exp(fusion.log_probabilities(logs, present))
            probabilities[both] = fused.probabilities
        else:
            fusion = fit_weighted_sum({name: one[both] for name, one in logs.items()}, held_out.targets[both])
            probabilities = np.exp(fusion.log_probabilities(logs, present))
        if text is not None:
            report["text_graph"] = {"parity": text.parity}
        networks = {name: one.network for name, one in ((TEXT, text), (IMAGE, image)) if one is not None}
        named = {
            f"{label}.keras": classifier_network(networks[name], temperatures[name], label)
            for name, label in ((TEXT, "lstm_model"), (IMAGE, "vgg16_model"))
            if name in networks
        }
        if len(networks) == 2:
            named["concatenate_model.keras"] = concatenate_network(networks, temperatures, fusion, fusion_network)
        return Learnt(
            Classifier(examples.codes, models, temperatures, fusion),
            decision_thresholds(probabilities, held_out, recipe.decisions),
            graph,
            report=report,
            history={**(text.history if text else {}), **(image.history if image else {})},
            attachments={name: _saved(network) for name, network in named.items()},
        )

    def _choose_precision(self, examples: Examples, models: Models, image: _Image) -> tuple[bytes, dict[str, Any]]:
        """The graph that serves, 8-bit integers if the validation side hardly notices, and the figures of both."""
        graphs = {"fp32": image.graph, "int8": image.graph}
        names = [name for name in examples.image_names(Side.TRAIN) if name is not None][:CALIBRATION_IMAGES]
        pixels = [decode(examples.image(name), self._recipe.image.size) for name in names]
        get_logger(__name__).info("measuring VGG16 with 8-bit integers", calibrated_on=len(pixels))
        graphs["int8"] = quantized(image.graph, pixels)
        parity = self._parity(image, models, pixels[:CHECKED_IMAGES])
        figures: dict[str, Any] = {}
        for precision, graph in graphs.items():
            rows = examples.rows(Side.VALIDATION, graph=graph)
            rows = rows.at(np.flatnonzero(rows.inputs.has(IMAGE)))
            guessed = models.image.scores(_stack(rows)).argmax(axis=1) if models.image and len(rows) else []
            figures[precision] = {
                "weighted_f1": float(f1_score(rows.targets, guessed, average="weighted", zero_division=0))
                if len(rows)
                else 0.0,
                "bytes": len(graph),
            }
        loss = figures["fp32"]["weighted_f1"] - figures["int8"]["weighted_f1"]
        kept = "int8" if loss <= self._recipe.int8_loss else "fp32"
        return graphs[kept], {**figures, "kept": kept, "parity": parity}

    @staticmethod
    def _parity(image: _Image, models: Models, pixels: list[Pixels]) -> float:
        if not pixels or models.image is None:
            return 0.0
        encoder = ImageEncoder(image.graph)
        exported = models.image.scores([encoder.encode(one) for one in pixels])
        expected = image.network(np.stack(pixels).astype(np.float32), training=False)
        return check_parity("image network", _softmax(exported), _softmax(keras.ops.convert_to_numpy(expected)))

    def _trust(self, rows: Rows) -> Array:
        weights: Array = rows.weights**self._recipe.weight_power
        return weights

    def _weights(self, rows: Rows, types: int) -> Array:
        return self._trust(rows) * rarity(rows.targets, types) ** self._recipe.balance


@dataclass
class _Image:
    network: keras.Model
    history: Mapping[str, History]
    encoder: keras.Model
    head: keras.Model
    graph: bytes


def _prepare_keras() -> None:
    """The same sums in the same order in every run, and half precision where there is a GPU."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # noqa: PLC0415  another backend does without

        tf.config.experimental.enable_op_determinism()
        gpu = bool(tf.config.list_physical_devices("GPU"))
        keras.mixed_precision.set_dtype_policy("mixed_float16" if gpu else "float32")


def _stack(rows: Rows) -> Features:
    return np.stack([one for one in rows.inputs.features if one is not None])


def _softmax(scores: NDArray[np.floating]) -> Array:
    return np.exp(log_softmax(scores))


def _saved(network: keras.Model) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.keras"
        network.save(path)
        return path.read_bytes()

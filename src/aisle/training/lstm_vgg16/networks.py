"""The networks of the recipe. Those that are fitted give scores; `whole` and its parts give probabilities."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers

from aisle.errors import ServiceMissing
from aisle.model.fusion import LEAST_LOG, DenseFusion, Fusion, WeightedSum
from aisle.model.image import Features
from aisle.training.recipes import DenseFusionTraining, LstmTraining, VggTraining
from aisle.training.vgg16 import IMAGENET, WEIGHTS_URL

IMAGENET_MEAN = (123.68, 116.779, 103.939)
"""Of red, green and blue, 0 to 255: what the weights' authors took off each pixel."""


def text_network(how: LstmTraining, vocabulary: int, types: int) -> keras.Model:
    """Numbers of words (n x words, 0 fills up) → scores (n x types)."""
    words = keras.Input((None,), dtype="int32", name="words")
    x = layers.Embedding(vocabulary, how.embedding, mask_zero=True, name="embedding")(words)
    x = layers.Dropout(how.dropout, name="embedding_dropout")(x)
    x = layers.LSTM(how.units, name="lstm")(x)
    x = layers.Dropout(how.dropout, name="dropout")(x)
    return keras.Model(words, layers.Dense(types, name="scores", dtype="float32")(x), name="text")


def vgg16_encoder(how: VggTraining) -> keras.Model:
    """Pixels (n x size x size x 3, red, green, blue, 0 to 255) → features (n x 512): VGG16's last maps, averaged.

    Raises ServiceMissing where ImageNet weights are wanted and cannot be downloaded.
    """
    shape = (how.size, how.size, 3)
    try:
        vgg16 = keras.applications.VGG16(
            weights=how.weights if how.weights == IMAGENET else None,
            include_top=False,
            input_shape=shape,
            pooling="avg",
            name="vgg16",
        )
    except Exception as error:  # noqa: BLE001  Keras raises a plain Exception for a download that failed
        raise ServiceMissing(
            f"VGG16's ImageNet weights cannot be downloaded: {error}",
            where=WEIGHTS_URL,
            hint="`--weights none` trains without them.",
        ) from None
    if how.weights == IMAGENET:
        _take_red_first(vgg16)
    pixels = keras.Input(shape, name="pixels")
    centred = layers.Normalization(mean=IMAGENET_MEAN, variance=(1.0, 1.0, 1.0), name="centred")(pixels)
    return keras.Model(pixels, vgg16(centred), name="encoder")


def image_head(how: VggTraining, features: Features, types: int) -> keras.Model:
    """Features → scores (n x types); `features` (n x columns) tell how they spread.

    It computes in 32 bits whatever the encoder does: how far a feature spreads may be less than 16 bits can tell
    from nothing, and is divided by.
    """
    given = keras.Input((features.shape[1],), name="features")
    spread = layers.Normalization(name="spread", dtype="float32")
    spread.adapt(features)
    x = layers.Dense(how.hidden, activation="relu", name="hidden", dtype="float32")(spread(given))
    x = layers.Dropout(how.dropout, name="dropout", dtype="float32")(x)
    return keras.Model(given, layers.Dense(types, name="scores", dtype="float32")(x), name="image_head")


def image_network(encoder: keras.Model, head: keras.Model) -> keras.Model:
    """Pixels → scores."""
    pixels = keras.Input(encoder.input_shape[1:], name="pixels")
    return keras.Model(pixels, head(encoder(pixels)), name="image")


def fusion_head(how: DenseFusionTraining, columns: int, types: int) -> keras.Model:
    """Log-probabilities of all models side by side → scores."""
    given = keras.Input((columns,), name="log_probabilities")
    x = layers.Dense(how.hidden, activation="relu", name="hidden")(given)
    x = layers.Dropout(how.dropout, name="dropout")(x)
    return keras.Model(given, layers.Dense(types, name="scores", dtype="float32")(x), name="fusion_head")


def classifier_network(scores: keras.Model, temperature: float, name: str) -> keras.Model:
    """The same inputs → calibrated probabilities."""
    given = keras.Input(scores.input_shape[1:], dtype=scores.inputs[0].dtype, name=scores.inputs[0].name)
    return keras.Model(given, _calibrated(scores(given), temperature), name=name)


def concatenate_network(
    networks: Mapping[str, keras.Model],
    temperatures: Mapping[str, float],
    fusion: Fusion,
    head: keras.Model | None,
) -> keras.Model:
    """Words and pixels → probabilities, by standard layers alone, so that the file needs no code of ours."""
    inputs, logs = [], []
    for name in fusion.models:
        network = networks[name]
        given = keras.Input(network.input_shape[1:], dtype=network.inputs[0].dtype, name=network.inputs[0].name)
        inputs.append(given)
        logs.append(_calibrated(network(given), temperatures[name], activation="log_softmax"))
    if isinstance(fusion, WeightedSum):
        total = sum(fusion.weights.values())
        shares = [
            layers.Rescaling(fusion.weights[name] / total)(layers.Activation("exponential")(log))
            for name, log in zip(fusion.models, logs, strict=True)
        ]
        return keras.Model(inputs, layers.Add()(shares), name="concatenate_model")
    if not isinstance(fusion, DenseFusion) or head is None:
        raise TypeError(f"no layers are known for a fusion of kind {fusion.kind}")
    floored = [layers.Rescaling(-1.0)(layers.ReLU(max_value=-LEAST_LOG)(layers.Rescaling(-1.0)(log))) for log in logs]
    scores = head(layers.Concatenate()(floored))
    return keras.Model(inputs, layers.Softmax(dtype="float32")(scores), name="concatenate_model")


def dense_arrays(head: keras.Model) -> dict[str, Features]:
    """The head as `DenseHead` knows it; a normalisation in front becomes part of the first layer."""
    hidden_weights, hidden_bias = head.get_layer("hidden").get_weights()
    weights, bias = head.get_layer("scores").get_weights()
    for layer in head.layers:
        if layer.name == "spread":
            mean, deviation = (np.asarray(one).ravel() for one in (layer.mean, layer.variance))
            deviation = np.maximum(np.sqrt(deviation), keras.config.epsilon())
            hidden_bias = hidden_bias - (mean / deviation) @ hidden_weights
            hidden_weights = hidden_weights / deviation[:, np.newaxis]
    arrays = {"weights": weights, "bias": bias, "hidden_weights": hidden_weights, "hidden_bias": hidden_bias}
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()}


def _calibrated(scores: keras.KerasTensor, temperature: float, activation: str = "softmax") -> keras.KerasTensor:
    scaled = layers.Rescaling(1 / temperature, dtype="float32")(scores)
    return layers.Activation(activation, dtype="float32")(scaled)


def _take_red_first(vgg16: keras.Model) -> None:
    """The ImageNet weights expect blue first: turn the first convolution around instead of every image."""
    first = vgg16.get_layer("block1_conv1")
    kernel, bias = first.get_weights()
    first.set_weights([kernel[:, :, ::-1, :], bias])

"""Keras networks as ONNX graphs, written from their weights, and how far the two differ.

A network that is written node by node needs no converter, runs under any Keras backend, and is what serving wants:
one text of its own length, an image as bytes 0 to 255.
"""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from aisle.training.graph import GraphBuilder


def lstm_graph(network: keras.Model) -> bytes:
    """`words` (1 x length, int64) → `scores` (1 x types)."""
    graph = GraphBuilder()
    [embedding] = network.get_layer("embedding").get_weights()
    kernel, recurrent, bias = network.get_layer("lstm").get_weights()
    weights, scores_bias = network.get_layer("scores").get_weights()
    units = recurrent.shape[0]
    x = graph.add("Gather", graph.constant("embedding", embedding), "words")
    x = graph.add("Transpose", x, perm=[1, 0, 2])
    gates = [_gates_of_onnx(one.T, units)[np.newaxis] for one in (kernel, recurrent)]
    biases = np.concatenate([_gates_of_onnx(bias, units), np.zeros_like(bias)])[np.newaxis]
    constants = (
        graph.constant("lstm_kernel", gates[0]),
        graph.constant("lstm_recurrent", gates[1]),
        graph.constant("lstm_bias", biases),
    )
    graph.add("LSTM", x, *constants, output="every_state", hidden_size=units)
    last = graph.add("Gather", "every_state", graph.constant("last", np.array([-1], np.int64)), axis=0)
    last = graph.add("Squeeze", last, graph.constant("last_and_direction", np.array([0, 1], np.int64)))
    bias_name = graph.constant("scores_bias", scores_bias)
    graph.add("Gemm", last, graph.constant("scores_weights", weights), bias_name, output="scores")
    return graph.serialised("lstm", ("words", TensorProto.INT64, [1, "length"]), ("scores", [1, weights.shape[1]]))


def vgg16_graph(encoder: keras.Model) -> bytes:
    """`pixels` (n x size x size x 3, uint8) → `features` (n x 512)."""
    graph = GraphBuilder()
    centred, vgg16 = encoder.get_layer("centred"), encoder.get_layer("vgg16")
    mean = np.asarray(centred.mean, dtype=np.float32).reshape(1, 3, 1, 1)
    x = graph.add("Cast", "pixels", to=TensorProto.FLOAT)
    x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
    x = graph.add("Sub", x, graph.constant("mean", mean))
    channels = 0
    for layer in vgg16.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel, bias = layer.get_weights()
            channels = kernel.shape[-1]
            constants = (
                graph.constant(f"{layer.name}_kernel", kernel.transpose(3, 2, 0, 1)),
                graph.constant(f"{layer.name}_bias", bias),
            )
            x = graph.add("Conv", x, *constants, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            x = graph.add("Relu", x)
        elif isinstance(layer, keras.layers.MaxPooling2D):
            x = graph.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = graph.add("GlobalAveragePool", x)
    graph.add("Flatten", x, output="features", axis=1)
    size = encoder.input_shape[1]
    given = ("pixels", TensorProto.UINT8, ["n", size, size, 3])
    return graph.serialised("vgg16", given, ("features", ["n", channels]))


def _gates_of_onnx(array: NDArray[np.float32], units: int) -> NDArray[np.float32]:
    """Keras keeps input, forget, cell, output gate; ONNX input, output, forget, cell."""
    gate_i, gate_f, gate_c, gate_o = (array[at * units : (at + 1) * units] for at in range(4))
    return np.concatenate([gate_i, gate_o, gate_f, gate_c])

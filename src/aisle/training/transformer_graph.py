"""A fine-tuned transformer as what a bundle keeps: an ONNX graph.

Its weights are 8-bit integers, and so are most products: less than half of the time, a quarter of the size.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from aisle.training.e5 import Pretrained
from aisle.training.graph import GraphBuilder

Array = NDArray[np.float32]
LARGEST = 127


def build_graph(pretrained: Pretrained, learnt: Mapping[str, Array], layers: int) -> bytes:
    """`pieces` (1 x pieces, int64) → `scores` (1 x types). As `fit_transformer` learnt it, in 32-bit numbers."""
    graph = _Graph({**pretrained.weights, **learnt})
    x = graph.embedded()
    x = graph.norm(x, "norm", pretrained.epsilon)
    for layer in range(layers):
        x = graph.layer(x, str(layer), pretrained.heads, pretrained.epsilon)
    x = graph.add("ReduceMean", x, axes=[1], keepdims=0)
    graph.dense(x, "head", output="scores")
    types = len(learnt["head.b"])
    return graph.serialised("transformer", ("pieces", TensorProto.INT64, [1, "pieces"]), ("scores", [1, types]))


def quantized(graph: bytes) -> bytes:
    """`graph` with 8-bit products of matrices.

    Weights use 7 of their 8 bits: on processors without the newer instructions the sum of two products of 8 bits
    does not fit, and the graph would say something else there.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415  slow to import

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "given.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(graph)
        with without_small_talk():
            quantize_dynamic(
                source,
                target,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                reduce_range=True,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        return target.read_bytes()


@contextlib.contextmanager
def without_small_talk() -> Iterator[None]:
    """The package tells the root logger of every product of matrices."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class _Graph(GraphBuilder):
    def __init__(self, weights: Mapping[str, Array]) -> None:
        super().__init__()
        self._weights = weights

    def embedded(self) -> str:
        """Rows of `words` as 8-bit integers, each with a scale of its own, plus those of `places`."""
        words, places = self._weights["words"], self._weights["places"]
        scales = np.abs(words).max(axis=1, keepdims=True).astype(np.float32) / LARGEST
        whole = np.round(np.divide(words, scales, out=np.zeros_like(words), where=scales > 0)).astype(np.int8)
        rows = self.add("Cast", self.add("Gather", self.constant("words", whole), "pieces"), to=TensorProto.FLOAT)
        rows = self.add("Mul", rows, self.add("Gather", self.constant("scales", scales), "pieces"))
        zero, one = (self.constant(name, np.array([value], np.int64)) for name, value in (("zero", 0), ("one", 1)))
        length = self.add("Slice", self.add("Shape", "pieces"), one, self.constant("two", np.array([2], np.int64)))
        return self.add("Add", rows, self.add("Slice", self.constant("places", places), zero, length, zero))

    def layer(self, x: str, layer: str, heads: int, epsilon: float) -> str:
        query, key, value = (
            self._split(self.dense(x, f"{layer}.{name}"), heads) for name in ("query", "key", "value")
        )
        key = self.add("Transpose", key, perm=[0, 1, 3, 2])
        width = self._weights[f"{layer}.query.w"].shape[1] // heads
        scale = self.constant(f"{layer}.scale", np.array(1 / np.sqrt(width), np.float32))
        alike = self.add("Softmax", self.add("Mul", self.add("MatMul", query, key), scale), axis=-1)
        seen = self.add("Transpose", self.add("MatMul", alike, value), perm=[0, 2, 1, 3])
        whole = self.constant(f"{layer}.whole", np.array([0, 0, heads * width], np.int64))
        seen = self.dense(self.add("Reshape", seen, whole), f"{layer}.out")
        x = self.norm(self.add("Add", x, seen), f"{layer}.norm1", epsilon)
        inner = self.dense(self._gelu(self.dense(x, f"{layer}.up"), layer), f"{layer}.down")
        return self.norm(self.add("Add", x, inner), f"{layer}.norm2", epsilon)

    def dense(self, x: str, name: str, output: str = "") -> str:
        weight = self.constant(f"{name}.w", self._weights[f"{name}.w"])
        product = self.add("MatMul", x, weight)
        return self.add("Add", product, self.constant(f"{name}.b", self._weights[f"{name}.b"]), output=output)

    def norm(self, x: str, name: str, epsilon: float) -> str:
        weight, bias = (self.constant(f"{name}.{part}", self._weights[f"{name}.{part}"]) for part in "wb")
        return self.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=epsilon)

    def _split(self, x: str, heads: int) -> str:
        """1 x heads x pieces x width of a head."""
        shape = self.constant(f"{x}.shape", np.array([0, 0, heads, -1], np.int64))
        return self.add("Transpose", self.add("Reshape", x, shape), perm=[0, 2, 1, 3])

    def _gelu(self, x: str, layer: str) -> str:
        root, one, half = (
            self.constant(f"{layer}.gelu{at}", np.array(value, np.float32))
            for at, value in enumerate((np.sqrt(2), 1.0, 0.5))
        )
        erf = self.add("Add", self.add("Erf", self.add("Div", x, root)), one)
        return self.add("Mul", self.add("Mul", x, erf), half)

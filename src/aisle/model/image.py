"""The image model: a frozen encoder (ONNX) from pixels to features, and a linear head from features to scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from aisle.errors import BundleError
from aisle.inputs.image import Pixels, decode

Features = NDArray[np.float32]


class ImageEncoder:
    """Image bytes → features. One image at a time on one thread; call it from several for several images.

    On a CPU a batch gains nothing, and one image at a time means that the
    features of an image do not depend on its neighbours.
    """

    def __init__(self, graph: bytes) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001  ONNX Runtime's errors have no other common base
            raise BundleError(f"the image encoder is no ONNX graph that runs: {error}") from None
        pixels = self._session.get_inputs()[0]
        self._input = pixels.name
        self.size = int(pixels.shape[1])

    def __call__(self, image: bytes) -> Features:
        """The features of an image, 1-dimensional. Raises ImageError as `inputs.image.decode` does."""
        return self.encode(self.decode(image))

    def decode(self, image: bytes) -> Pixels:
        return decode(image, self.size)

    def encode(self, pixels: Pixels) -> Features:
        features: Features = self._session.run(None, {self._input: pixels[np.newaxis]})[0][0]
        return features


class LinearHead:
    """scores = features @ weights + bias, one row at a time: a row's scores do not depend on its batch.

    (A matrix product may sum in another order for another number of rows; a vector's product does not.)
    """

    def __init__(self, weights: Features, bias: Features) -> None:
        self.weights = np.ascontiguousarray(weights, dtype=np.float32)  # features x types
        self.bias = np.asarray(bias, dtype=np.float32)  # types
        self._rows = np.ascontiguousarray(self.weights.T)

    def scores(self, features: Sequence[Features] | Features) -> Features:
        """n x types for n rows of features."""
        out = np.empty((len(features), len(self.bias)), dtype=np.float32)
        for row, one in enumerate(features):
            np.dot(self._rows, one, out=out[row])
        out += self.bias
        return out

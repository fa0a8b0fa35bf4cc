"""Drift: how often an undrifted window alarms, and how often an injected drift is caught within 500 products.

On the real catalogue for what it can show, on a generated one for what it cannot: the real one has no descriptions.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Figure, Options, Skipped


def run(options: Options) -> list[Figure]:
    from benchmarks.drift_catalogues import generated, real

    with tempfile.TemporaryDirectory(prefix="aisle-benchmark-") as folder:
        figures = generated(Path(folder))
        try:
            figures += real(options.real_catalogue(), Path(folder))
        except Skipped as reason:
            print(f"  the real catalogue was left out: {reason}", file=sys.stderr)
    return figures

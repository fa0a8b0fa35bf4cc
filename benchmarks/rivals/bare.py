"""The predictor without a server, one product after the other: `python -m benchmarks.rivals.bare WARM SECONDS`.

It prints what it measured, as JSON. What it takes is what no server can save.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time

from aisle.catalog import Product
from benchmarks.load import Outcome
from benchmarks.rivals.processes import memory_mb
from benchmarks.rivals.products import drawn
from benchmarks.rivals.servers.model import Model


def main(warm: float, seconds: float) -> None:
    model = Model()
    shown = itertools.cycle(Product(one.title, "", one.image) for one in drawn())
    model.say([next(shown)])
    ready = time.time()
    _asked(model, shown, warm)
    cpu = time.process_time()
    outcome = _asked(model, shown, seconds)
    cpu = time.process_time() - cpu
    resident, peak = memory_mb(os.getpid())
    said = {"ready": ready, "seconds": outcome.seconds, "elapsed": outcome.elapsed, "cpu": cpu}
    print(json.dumps(said | {"resident_mb": resident, "peak_mb": peak}))


def _asked(model: Model, shown: itertools.cycle[Product], seconds: float) -> Outcome:
    outcome = Outcome()
    started = now = time.perf_counter()
    while now - started < seconds:
        model.say([next(shown)])
        outcome.seconds.append(-now + (now := time.perf_counter()))
    outcome.elapsed = now - started
    return outcome


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))

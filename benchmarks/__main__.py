"""`python -m benchmarks [NAME…]`: measure, print a table and append to `benchmarks/results/<date>.json`.

Exit code 0: measured, or skipped because the real catalogue is not here; 4: a goal was missed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import (
    bulk,
    console,
    decoding,
    drift,
    engines,
    explain,
    first_run,
    fusion,
    image_models,
    networks,
    original_bulk,
    queue_order,
    ray_bulk,
    real_catalogue,
    scale,
    sections,
    service,
    shadow,
    startup,
    training,
    unknown_types,
)
from benchmarks.measure import RESULTS, ROOT, Figure, Options, Skipped, record, shown, table
from benchmarks.page import PAGE

BENCHMARKS: dict[str, Callable[[Options], Sequence[Figure]]] = {
    "startup": startup.run,
    "real_catalogue": real_catalogue.run,
    "training": training.run,
    "training_generated": training.run_generated,
    "fusion": fusion.run,
    "image_models": image_models.run,
    "engines": engines.run,
    "decoding": decoding.run,
    "unknown_types": unknown_types.run,
    "explain": explain.run,
    "bulk": bulk.run,
    "original_bulk": original_bulk.run,
    "ray_bulk": ray_bulk.run,
    "service": service.run,
    "shadow": shadow.run,
    "console": console.run,
    "networks": networks.run,
    "queue_order": queue_order.run,
    "drift": drift.run,
    "drift_real": drift.run_real,
    "scale": scale.run,
    "first_run": first_run.run,
}
MISSED = 4
PLACES = ("--real", "--results", "--page")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; none: all of them")
    parser.add_argument(
        "--real", type=Path, default=ROOT.parent / "shared" / "rakuten", help="folder of the real catalogue"
    )
    parser.add_argument(
        "--model",
        default="",
        help="bulk, ray_bulk, service, shadow, console, scale: a bundle, to train none",
    )
    parser.add_argument(
        "--up-to", type=int, default=100_000, help="scale, training_generated: the most rows (default: 100,000)"
    )
    parser.add_argument(
        "--images", type=int, default=0, help="networks: so many products have an image (default: all)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--page", type=Path, default=PAGE, help="what is written (default: docs/performance.md)")
    parser.add_argument(
        "--page-only", action="store_true", help="measure nothing, write the page of the last results"
    )
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there is {', '.join(BENCHMARKS)}")
    if chosen.page_only:
        sections.write(chosen.page, chosen.results)
        return 0
    if len(chosen.names) != 1:
        options = [one for one in arguments if one not in chosen.names]
        return max(_in_its_own_process(name, options) for name in chosen.names or BENCHMARKS)
    [name] = chosen.names
    try:
        figures = BENCHMARKS[name](Options(chosen.real, chosen.model, chosen.up_to, chosen.images))
    except Skipped as reason:
        print(f"{name}\n  skipped: {reason}")
        return 0
    command = f"python -m benchmarks {shown(arguments, without=PLACES)}"
    entry = record(name, figures, command, results=chosen.results)
    print(table(name, figures))
    if name in sections.NAMES:
        sections.write(chosen.page, chosen.results)
    return 0 if entry["met"] else MISSED


def _in_its_own_process(name: str, options: Sequence[str]) -> int:
    """One benchmark's memory must not count in the next one's peaks."""
    return subprocess.run([sys.executable, "-m", "benchmarks", name, *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

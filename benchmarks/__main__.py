"""`python -m benchmarks [NAME…]`: measure, print a table and append to `benchmarks/results/<date>.json`.

Exit code 0: measured, or skipped because the real catalogue is not here; 4: a goal was missed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.measure import RESULTS, ROOT, Figure, Options, Skipped, commit, record, shown, table
from benchmarks.page import PAGE

BENCHMARKS = (
    "startup",
    "real_catalogue",
    "training",
    "training_generated",
    "fusion",
    "image_models",
    "engines",
    "decoding",
    "unknown_types",
    "explain",
    "bulk",
    "original_bulk",
    "ray_bulk",
    "service",
    "shadow",
    "console",
    "networks",
    "queue_order",
    "drift",
    "drift_real",
    "scale",
    "first_run",
)
OF_ANOTHER = {"training_generated": ("training", "run_generated"), "drift_real": ("drift", "run_real")}
"""Where a benchmark is not `run` of the module with its name."""
ON_THE_PAGE = frozenset(
    {"scale", "training", "training_generated", "original_bulk", "networks", "image_models", "decoding", "engines"}
)
MISSED = 4
PLACES = ("--real", "--results", "--page", "--model")
"""What others have elsewhere, or do without: it is not in the command that a result stands with."""


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
        _write(chosen.page, chosen.results)
        return 0
    if len(chosen.names) != 1:
        options = [one for one in arguments if one not in chosen.names]
        return max(_in_its_own_process(name, options) for name in chosen.names or BENCHMARKS)
    [name] = chosen.names
    begun = commit()
    try:
        figures = _benchmark(name)(Options(chosen.real, chosen.model, chosen.up_to, chosen.images))
    except Skipped as reason:
        print(f"{name}\n  skipped: {reason}")
        return 0
    command = f"python -m benchmarks {shown(arguments, without=PLACES)}"
    entry = record(name, figures, command, begun, results=chosen.results)
    print(table(name, figures))
    if name in ON_THE_PAGE:
        _write(chosen.page, chosen.results)
    return 0 if entry["met"] else MISSED


def _write(page: Path, results: Path) -> None:
    from benchmarks import sections

    sections.write(page, results)


def _benchmark(name: str) -> Callable[[Options], Sequence[Figure]]:
    """Its module alone: what others import would count as memory of the commands that this one starts."""
    module, function = OF_ANOTHER.get(name, (name, "run"))
    found: Callable[[Options], Sequence[Figure]] = getattr(import_module(f"benchmarks.{module}"), function)
    return found


def _in_its_own_process(name: str, options: Sequence[str]) -> int:
    """One benchmark's memory must not count in the next one's peaks."""
    return subprocess.run([sys.executable, "-m", "benchmarks", name, *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Training the recipe `light`: seconds and memory by size, with nothing in the cache and with all features in it.

Of the real catalogue the first 1,000, 3,000 and all 12,014 products; of generated ones 1,000 to 100,000. Where the
time goes is read off the log: each moment belongs to what was told last.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from math import log
from pathlib import Path
from statistics import linear_regression
from typing import Any

from benchmarks.measure import Figure, Options, Skipped, Workplace

SIZES = (1_000, 3_000, 12_014)
GENERATED = (1_000, 10_000, 100_000)
EXPONENT_GOAL = 1.05
Arguments = Sequence[str | Path]
TABLES = ("X_train_update.csv", "Y_train_CVw08PX.csv", "label_agreement.csv")
PARTS = {
    "encoding images": "images",
    "fine-tuning a transformer": "transformer",
    "epoch": "transformer",
    "fitting models": "models",
}
"""What a line of the log begins; `models` are the linear ones of the texts and the head of the images, and with them
their calibration, fusion and measuring."""


def run(options: Options) -> list[Figure]:
    """Of the real catalogue."""
    real = options.real_catalogue()
    return _measured(
        "real", SIZES, lambda place, rows: ("--source", first_products(real, place.path / "source", rows))
    )


def run_generated(options: Options) -> list[Figure]:
    """Of generated products, `--up-to` so many."""
    sizes = [rows for rows in GENERATED if rows <= options.up_to]
    if len(sizes) < 2:
        raise Skipped(f"growth needs two sizes; --up-to {GENERATED[1]} is the least")
    return _measured("generated", sizes, lambda _, rows: ("--source", "sample", "--rows", str(rows)))


def _measured(kind: str, sizes: Sequence[int], catalogue: Callable[[Workplace, int], Arguments]) -> list[Figure]:
    """`catalogue`: what `aisle import` is told for so many rows."""
    figures: list[Figure] = []
    by_rows: dict[int, float] = {}
    for rows in sizes:
        with Workplace() as place:
            for verb in (("import", *catalogue(place, rows)), ("validate",), ("prepare",)):
                place.aisle(*verb)
            cold = place.aisle("train", "--json")
            cached = place.aisle("train", "--again", "--json")
            shares = shares_of((place.path / "logs_path" / "train_model_logger.log").read_text())
        by_rows[rows] = cold.seconds
        figures += [
            Figure(f"{kind}_{rows}_cold_s", cold.seconds),
            Figure(f"{kind}_{rows}_cold_peak_mb", cold.peak_mb),
            Figure(f"{kind}_{rows}_cached_s", cached.seconds),
            *(Figure(f"{kind}_{rows}_{part}_share", share) for part, share in shares.items()),
        ]
    return [*figures, Figure(f"{kind}_cold_exponent", exponent(by_rows), at_most=EXPONENT_GOAL)]


def first_products(real: Path, folder: Path, rows: int) -> Path:
    """The catalogue `real` in `folder`, with its first `rows` products alone."""
    folder.mkdir()
    for path in real.iterdir():
        if path.is_file() and path.name not in TABLES:
            (folder / path.name).symlink_to(path)
    for name in TABLES:
        if not (real / name).is_file():
            continue
        with (real / name).open(newline="", encoding="utf-8") as stream:
            header, *products = csv.reader(stream)
        with (folder / name).open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([header, *products[:rows]])
    return folder


def shares_of(text: str) -> dict[str, float]:
    """Of the first training in a log, the share of its time that each of `PARTS` takes, from its first line on."""
    lines: list[dict[str, Any]] = []
    for one in map(json.loads, text.splitlines()):
        lines.append(one)
        if one["event"] == "trained":
            break
    seconds: dict[str, float] = defaultdict(float)
    part = "images"
    for line, following in pairwise(lines):
        part = PARTS.get(line["event"], part)
        seconds[part] += (_moment(following) - _moment(line)).total_seconds()
    return {name: seconds[name] / sum(seconds.values()) for name in sorted(seconds)}


def _moment(line: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(line["timestamp"])


def exponent(seconds: dict[int, float]) -> float:
    """Seconds grow with rows to this power; the start of a process, the same for all, lowers it."""
    logs = [[log(one) for one in values] for values in (seconds, seconds.values())]
    return float(linear_regression(*logs).slope)

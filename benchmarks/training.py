"""Training the recipe `light`: seconds and memory by size, with nothing in the cache and with all features in it.

Of the real catalogue the first 1,000, 3,000 and all 12,014 products; generated ones up to `--up-to`, of which only
the cold training is measured. Where the time goes is read off the log: each moment belongs to what was told last.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from datetime import datetime
from itertools import pairwise
from math import log
from pathlib import Path
from statistics import linear_regression
from typing import Any

from benchmarks.measure import Figure, Options, Timed, Workplace

SIZES = (1_000, 3_000, 12_014)
GENERATED = (1_000, 10_000, 100_000)
EXPONENT_GOAL = 1.05
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
    real = options.real_catalogue()
    figures: list[Figure] = []
    by_rows: dict[int, float] = {}
    for rows in SIZES:
        with Workplace() as place:
            source = first_products(real, place.path / "source", rows)
            cold = _trained(place, "import", "--source", source)
            cached = place.aisle("train", "--again", "--json")
            shares = shares_of((place.path / "logs_path" / "train_model_logger.log").read_text())
        by_rows[rows] = cold.seconds
        figures += [
            Figure(f"real_{rows}_cold_s", cold.seconds),
            Figure(f"real_{rows}_cold_peak_mb", cold.peak_mb),
            Figure(f"real_{rows}_cached_s", cached.seconds),
            *(Figure(f"real_{rows}_{part}_share", share) for part, share in shares.items()),
        ]
    figures.append(Figure("real_cold_exponent", exponent(by_rows)))
    generated: dict[int, float] = {}
    for rows in (one for one in GENERATED if one <= options.up_to):
        with Workplace() as place:
            cold = _trained(place, "import", "--source", "sample", "--rows", str(rows))
        generated[rows] = cold.seconds
        figures += [
            Figure(f"generated_{rows}_cold_s", cold.seconds),
            Figure(f"generated_{rows}_cold_peak_mb", cold.peak_mb),
        ]
    if len(generated) > 1:
        figures.append(Figure("generated_cold_exponent", exponent(generated), at_most=EXPONENT_GOAL))
    return figures


def _trained(place: Workplace, *catalogue: str | Path) -> Timed:
    for verb in (catalogue, ("validate",), ("prepare",)):
        place.aisle(*verb)
    return place.aisle("train", "--json")


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

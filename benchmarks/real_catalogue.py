"""The real catalogue from its raw files to a measured bundle: seconds and peak memory of each verb, and accuracy.

Cold is with an empty cache; again is the same four verbs once more, with the image features cached. The accuracy
is that of `aisle evaluate` on `gold_dev.csv`; its interval is a bootstrap over the rows of `aisle predict`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Figure, Options, Timed, Workplace

COLD_GOAL_S, AGAIN_GOAL_S, PEAK_GOAL_MB, F1_GOAL = 480, 480, 3000, 0.785
RESAMPLES = 1000
FIELDS = ("title", "title,description")
OTHER_FIGURES = ("accuracy", "macro_f1", "top_3", "calibration_error")


def run(options: Options) -> list[Figure]:
    real = options.real_catalogue()
    gold = real / "gold_dev.csv"
    with Workplace() as place:
        verbs: dict[str, list[str | Path]] = {
            "import": ["import", "--source", real],
            "validate": ["validate"],
            "prepare": ["prepare"],
            "train": ["train", "--recipe", "light", "--json"],
        }
        cold = {name: place.aisle(*verb) for name, verb in verbs.items()}
        again = {name: place.aisle(*verb) for name, verb in verbs.items() if name != "train"}
        again["train"] = place.aisle(*verbs["train"], "--again")
        trained = cold["train"].json()
        same = again["train"].json()["version"] == trained["version"]
        model = ["--model", trained["version"]]
        evaluated = {
            fields: place.aisle("evaluate", "--json", *model, "--data", gold, "--fields", fields).json()
            for fields in FIELDS
        }
        intervals = {fields: _interval(place, gold, fields, model) for fields in FIELDS}
    print(f"  bundle {trained['version']}")
    title, both = (evaluated[fields]["weighted_f1"] for fields in FIELDS)
    return [
        *_verbs("cold", cold, COLD_GOAL_S),
        *_verbs("again", again, AGAIN_GOAL_S),
        Figure("same_bundle_again", float(same), at_least=1),
        Figure("title_weighted_f1", title, at_least=F1_GOAL),
        *_bounds("title", intervals["title"]),
        Figure("title_description_weighted_f1", both, at_least=title),
        *_bounds("title_description", intervals["title,description"]),
        *(Figure(f"title_{name}", evaluated["title"][name]) for name in OTHER_FIGURES),
    ]


def _verbs(label: str, verbs: dict[str, Timed], goal_s: float) -> list[Figure]:
    return [
        *(Figure(f"{label}_{name}_s", one.seconds) for name, one in verbs.items()),
        Figure(f"{label}_total_s", sum(one.seconds for one in verbs.values()), at_most=goal_s),
        *(Figure(f"{label}_{name}_peak_mb", one.peak_mb, at_most=PEAK_GOAL_MB) for name, one in verbs.items()),
    ]


def _bounds(name: str, interval: tuple[float, float]) -> list[Figure]:
    low, high = interval
    return [Figure(f"{name}_weighted_f1_low", low), Figure(f"{name}_weighted_f1_high", high)]


def _interval(place: Workplace, gold: Path, fields: str, model: Sequence[str]) -> tuple[float, float]:
    """The bootstrap's 95 % interval of weighted F1, from what `aisle predict` says of rows with these fields."""
    with gold.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = ["index", "designation", *(["description"] if "description" in fields else [])]
    source, output = place.path / "gold.csv", place.path / "predicted.csv"
    with source.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    place.aisle("predict", source, "--output", output, *model)
    with output.open(encoding="utf-8", newline="") as stream:
        predicted = {row["index"]: row["predicted"] for row in csv.DictReader(stream)}
    return bootstrap([row["prdtypecode"] for row in rows], [predicted[row["index"]] for row in rows])


def bootstrap(true: Sequence[str], predicted: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of weighted F1 over resamples of the rows, with replacement."""
    import numpy as np

    codes = {code: column for column, code in enumerate(sorted({*true, *predicted}))}
    pairs = np.array([codes[code] for code in true]) * len(codes) + np.array([codes[code] for code in predicted])
    chance, scores = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        sample = pairs[chance.integers(len(pairs), size=len(pairs))]
        confusion = np.bincount(sample, minlength=len(codes) ** 2).reshape(len(codes), -1)
        rows, columns = confusion.sum(axis=1), confusion.sum(axis=0)
        f1 = 2 * np.diag(confusion) / np.maximum(rows + columns, 1)
        scores.append((f1 * rows).sum() / rows.sum())
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)

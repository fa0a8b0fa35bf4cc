"""Import, validate, prepare and predict 1,000 to 100,000 generated products: is time linear, memory flat?

Validate and prepare run again on the same rows without `images.zip`: what images add to the peak must not grow by
more than the few facts that are kept of each. An import has images always, so there the whole peak is held to it.
Predicted are the same products, titles, descriptions and images, by a bundle that learnt from 1,000 of them. Training
is in `training`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from pathlib import Path
from statistics import linear_regression

from benchmarks.measure import Figure, Options, Skipped, Timed, Workplace

ROWS = (1_000, 3_000, 10_000, 30_000, 100_000)
EXPONENT_GOAL = 1.05
TABLE = "X_train_update.csv"
BYTES_A_ROW_GOAL = 2_500  # the facts of an image and its entry in the directory of the zip; its file has 11,000
VERBS, AGAIN = ("import", "validate", "prepare", "predict"), ("validate", "prepare")


def run(options: Options) -> list[Figure]:
    sizes = [rows for rows in ROWS if rows <= options.up_to]
    if len(sizes) < 2:
        raise Skipped(f"growth needs two sizes; --up-to {ROWS[1]} is the least")
    with Workplace() as place:
        measured = [_measure(rows, _model(place, options)) for rows in sizes]
    return [figure for rows, one in zip(sizes, measured, strict=True) for figure in _sizes(rows, one)] + [
        *exponents(sizes, measured),
        *_growth(sizes, measured),
        Figure("image_file_bytes_a_row", _bytes_of_images(measured[-1]) / sizes[-1]),
    ]


def _model(place: Workplace, options: Options) -> Path:
    """The bundle that predicts, trained once."""
    if options.model:
        return Path(options.model).resolve()
    out = place.path / "bundle"
    if not out.is_dir():
        place.aisle("import", "--source", "sample", "--rows", str(ROWS[0]))
        place.aisle("train", "--out", out)
    return out


def _measure(rows: int, model: Path) -> dict[str, Timed]:
    """Each verb with images, and those of `AGAIN` without, as `validate text`."""
    with Workplace() as place:
        found = {
            "import": place.aisle("import", "--source", "sample", "--rows", str(rows), "--json"),
            "validate": place.aisle("validate"),
            "prepare": place.aisle("prepare"),
            "predict": place.aisle(
                "predict", place.raw / TABLE, "--images", place.raw, "--output", "out.parquet", "--model", model
            ),
        }
        (place.raw / "images.zip").unlink()
        text = place.path / "text"
        found["validate text"] = place.aisle("validate", "--out", text / "validated")
        found["prepare text"] = place.aisle("prepare", "--data", text / "validated", "--out", text / "preprocessed")
    return found


def _sizes(rows: int, one: Mapping[str, Timed]) -> list[Figure]:
    return [
        *(Figure(f"{verb}_{rows}_s", one[verb].seconds) for verb in VERBS),
        *(Figure(f"{verb}_{rows}_peak_mb", one[verb].peak_mb) for verb in VERBS),
        *(Figure(f"{verb}_{rows}_mb_for_images", _for_images(verb, one)) for verb in AGAIN),
    ]


def _for_images(verb: str, one: Mapping[str, Timed]) -> float:
    return one[verb].peak_mb - one[f"{verb} text"].peak_mb


def _bytes_of_images(one: Mapping[str, Timed]) -> int:
    files = one["import"].json()["files"]
    return sum(int(file["bytes"]) for file in files if file["name"] == "images.zip")


def exponents(sizes: Sequence[int], measured: Sequence[Mapping[str, Timed]]) -> list[Figure]:
    """Seconds grow with rows to this power: fitted over all sizes, and between the two largest.

    The start of a process, the same for any size, lowers the first; the second is nearly free of it.
    """
    figures = []
    logs = [log(rows) for rows in sizes]
    for verb in (*VERBS, "total"):
        names = VERBS if verb == "total" else (verb,)
        seconds = [log(sum(one[name].seconds for name in names)) for one in measured]
        slope = linear_regression(logs, seconds).slope
        last = (seconds[-1] - seconds[-2]) / (logs[-1] - logs[-2])
        figures += [
            Figure(f"{verb}_exponent", slope, at_most=EXPONENT_GOAL),
            Figure(f"{verb}_exponent_of_the_last_step", last, at_most=EXPONENT_GOAL if verb == "total" else None),
        ]
    return figures


def _growth(sizes: Sequence[int], measured: Sequence[Mapping[str, Timed]]) -> list[Figure]:
    """Bytes of memory that one more row takes because of its image (in an import: altogether)."""
    peaks = {
        "import_bytes_a_row": [one["import"].peak_mb for one in measured],
        **{f"{verb}_bytes_a_row_for_images": [_for_images(verb, one) for one in measured] for verb in AGAIN},
    }
    return [
        Figure(name, linear_regression(sizes, values).slope * 1e6, at_most=BYTES_A_ROW_GOAL)
        for name, values in peaks.items()
    ]

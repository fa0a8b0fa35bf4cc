"""docs/performance.md: time against rows, training and bulk prediction beside the original's way, image models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import original_bulk, scale, training
from benchmarks.page import Entry, latest, markdown, measured_by, number, picture, write_between

GROWTH = ("scale", "training", "training_generated")
PARTS = ("images", "transformer", "models")
WAYS = {
    original_bulk.THEIRS: "pandas and Keras, 32 products at a time",
    "light": "`aisle predict`, `light`",
    "lstm-vgg16-int8": "`aisle predict`, `lstm-vgg16` with 8 bits",
    "lstm-vgg16-fp32": "`aisle predict`, `lstm-vgg16` with 32 bits",
}
IMAGE_MODELS = (
    ("**EfficientNet-Lite0 and -Lite2, 32 bits: `light` from 2,000 images on**", "both_dense", "lite0_lite2"),
    ("the same, photos decoded whole before they are made smaller", "whole", ""),
    ("the same, 8 bits", "int8", "int8"),
    ("EfficientNet-Lite0, dense layer", "lite0_dense", "lite0"),
    ("EfficientNet-Lite0, logistic regression: `light` with fewer images", "lite0_logistic", "lite0"),
    ("EfficientNet-Lite2, dense layer", "lite2_dense", "lite2"),
)
"""What it is, its figures, and whose milliseconds are its own."""

Line = Mapping[int, float]
"""Seconds by rows."""


def write(page: Path, results: Path) -> None:
    """Between the marks of `page`, and the plot in the folder beside it that has its name."""
    last = latest(results)
    file = page.with_suffix("") / "rows.svg"
    sections: Mapping[str, tuple[str, Callable[[], list[str]]]] = {
        "growth": ("scale", lambda: growth(last, file)),
        "image branch": ("networks", lambda: image_branch(last["networks"])),
        "bulk": ("original_bulk", lambda: bulk(last["original_bulk"])),
        "image models": ("image_models", lambda: image_models(last["image_models"])),
    }
    for name, (needed, lines) in sections.items():
        if needed in last:
            write_between(page, name, lines())


def growth(last: Mapping[str, Entry], file: Path) -> list[str]:
    lines = _lines(last)
    plot(lines, file)
    return [
        *(f"- {measured_by(last[name])}" for name in GROWTH if name in last),
        "",
        f"![Seconds by rows, both on scales of powers of ten]({file.parent.name}/{file.name})",
        "",
        *_powers(last),
        "",
        *_seconds(lines),
        "",
        *_shares(last),
        "",
    ]


def _lines(last: Mapping[str, Entry]) -> dict[str, Line]:
    """What is plotted: each verb on generated products, and training on both kinds."""
    found: dict[str, Line] = {verb: _line(last["scale"], f"{verb}_{{}}_s", scale.ROWS) for verb in scale.VERBS}
    for entry, kind, sizes in _trainings(last):
        for cache in ("cold", "cached"):
            found[f"train, {cache}, {kind}"] = _line(entry, f"{kind}_{{}}_{cache}_s", sizes)
    return found


def _trainings(last: Mapping[str, Entry]) -> list[tuple[Entry, str, Sequence[int]]]:
    kinds = (("training_generated", "generated", training.GENERATED), ("training", "real", training.SIZES))
    return [(last[name], kind, sizes) for name, kind, sizes in kinds if name in last]


def _line(entry: Entry, name: str, sizes: Sequence[int]) -> Line:
    figures = entry["figures"]
    return {rows: figures[name.format(rows)] for rows in sizes if name.format(rows) in figures}


def _powers(last: Mapping[str, Entry]) -> list[str]:
    found = last["scale"]["figures"]
    rows = []
    for verb in (*scale.VERBS, "total"):
        label = "the four together" if verb == "total" else verb
        power, step = found[f"{verb}_exponent"], found[f"{verb}_exponent_of_the_last_step"]
        rows.append((label, f"{power:.2f}", _judged(power), f"{step:.2f}"))
    for entry, kind, sizes in _trainings(last):
        power = entry["figures"][f"{kind}_cold_exponent"]
        seconds = _line(entry, f"{kind}_{{}}_cold_s", sizes)
        step = training.exponent({size: seconds[size] for size in sorted(seconds)[-2:]})
        rows.append((f"train `light`, cold, {kind}", f"{power:.2f}", _judged(power), f"{step:.2f}"))
    heads = ("seconds grow with this power of the rows", "all sizes", f"goal {scale.EXPONENT_GOAL}", "last step")
    return markdown(heads, rows)


def _judged(power: float) -> str:
    return "met" if power <= scale.EXPONENT_GOAL else "**missed**"


def _seconds(lines: Mapping[str, Line]) -> list[str]:
    sizes = sorted({rows for line in lines.values() for rows in line})
    rows = [(label, *(number(line[size]) if size in line else "" for size in sizes)) for label, line in lines.items()]
    return markdown(("seconds", *(f"{size:,} rows" for size in sizes)), rows)


def _shares(last: Mapping[str, Entry]) -> list[str]:
    rows = []
    for entry, kind, sizes in _trainings(last):
        figures = entry["figures"]
        for size in sizes:
            if (peak := figures.get(f"{kind}_{size}_cold_peak_mb")) is None:
                continue
            shares = [figures.get(f"{kind}_{size}_{part}_share") for part in PARTS]
            cells = ["" if share is None else f"{share:.0%}".replace("%", " %") for share in shares]
            rows.append((f"{size:,} {kind}", *cells, f"{peak:,.0f} MB"))
    heads = ("of a cold training", "images", "transformer", "everything else", "peak")
    return markdown(heads, rows)


def plot(lines: Mapping[str, Line], file: Path) -> None:
    """One panel, both axes logarithmic, with the slope of the goal to look along."""
    with picture(file, (7, 4.2)) as [axes]:
        for label, line in lines.items():
            style = "--" if label.endswith("real") else "-"
            axes.loglog(list(line), list(line.values()), style, marker="o", markersize=3, linewidth=1, label=label)
        smallest, largest = (end(rows for line in lines.values() for rows in line) for end in (min, max))
        least = min(seconds for line in lines.values() for seconds in line.values()) / 2
        goal = [least, least * (largest / smallest) ** scale.EXPONENT_GOAL]
        axes.loglog([smallest, largest], goal, ":", color="black", label=f"the power {scale.EXPONENT_GOAL}")
        axes.set(xlabel="rows", ylabel="seconds")
        axes.legend(fontsize=7, ncols=2)


def bulk(entry: Entry) -> list[str]:
    figures = entry["figures"]
    rows = []
    for name, label in WAYS.items():
        unit = name.replace("-", "_")
        ratio = figures.get(f"{unit}_ratio")
        rows.append((label, number(figures[f"{unit}_per_s"]), "" if ratio is None else number(ratio)))
    return [measured_by(entry), "", *markdown(("", "products a second", "times the first"), rows)]


def image_branch(entry: Entry) -> list[str]:
    """Of `lstm-vgg16`, an epoch."""
    figures = entry["figures"]
    rows = [
        ("the first pass, by VGG16 in 32 bits, once for all epochs", f"{figures['first_pass_s']:,.0f}"),
        ("an epoch on the features kept from it", f"{figures['epoch_cached_s']:.2g}"),
        (
            "an epoch the original's way, which decodes and asks VGG16 again",
            f"{figures['epoch_keras_own_way_s']:,.0f}",
        ),
    ]
    times = figures["epoch_keras_own_way_times_cached"]
    return [
        measured_by(entry),
        "",
        *markdown((f"{figures['images']:,.0f} real images", "seconds"), rows),
        "",
        f"So an epoch takes the original's way {times:,.0f} times as long. Its figure is of 96 images, multiplied.",
    ]


def image_models(entry: Entry) -> list[str]:
    figures = entry["figures"]
    rows = []
    for label, name, milliseconds in IMAGE_MODELS:
        took = figures.get(f"{milliseconds}_ms") if milliseconds else None
        rows.append(
            (
                label,
                f"{figures[f'{name}_weighted_f1']:.4f}",
                f"{figures[f'{name}_log_loss']:.4f}",
                "" if took is None else f"{took:.1f}",
            )
        )
    low, high = (figures[f"both_dense_weighted_f1_{end}"] for end in ("low", "high"))
    return [
        measured_by(entry),
        "",
        *markdown(("the image alone", "weighted F1", "log-loss", "ms of the networks"), rows),
        "",
        f"Learnt from {figures['learnt_from']:,.0f} real images, measured on {figures['measured_on']:,.0f} others; "
        f"both networks are between {low:.3f} and {high:.3f} (95 %).",
    ]

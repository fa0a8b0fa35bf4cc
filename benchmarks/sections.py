"""docs/performance.md: time against rows, training and bulk prediction beside the original's way, image models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import decoding, engines, original_bulk, scale, training
from benchmarks.page import (
    Entry,
    cost,
    latest,
    markdown,
    measured_by,
    number,
    picture,
    value,
    verdict,
    with_spread,
    write_between,
)

GROWTH = ("scale", "training", "training_generated")
PARTS = ("images", "transformer", "models")
WAYS = {
    original_bulk.THEIRS: "pandas and Keras, 32 products at a time",
    "light": "`aisle predict`, `light` of 1,350 products",
    "light-large": "`aisle predict`, `light` of 6,500 products",
    "lstm-vgg16-int8": "`aisle predict`, `lstm-vgg16` with 8 bits",
    "lstm-vgg16-fp32": "`aisle predict`, `lstm-vgg16` with 32 bits",
}
IMAGE_MODELS = (
    ("**EfficientNet-Lite0 and -Lite2, 32 bits: `light` from 2,000 images on**", "both_dense", "lite0_lite2"),
    ("the same, learnt from and asked of photos that Pillow decodes whole", "decoded_whole", ""),
    ("the same, 8 bits in ONNX Runtime", "int8", "int8"),
    ("the same, 8 bits in OpenVINO", "openvino_int8", ""),
    ("EfficientNet-Lite0, 8 bits in ONNX Runtime, dense layer", "lite0_int8", "lite0_int8"),
    ("EfficientNet-Lite0, 8 bits in OpenVINO, dense layer", "openvino_lite0_int8", ""),
    ("EfficientNet-Lite0, dense layer", "lite0_dense", "lite0"),
    ("EfficientNet-Lite0, logistic regression: `light` with fewer images", "lite0_logistic", "lite0"),
    ("EfficientNet-Lite2, dense layer", "lite2_dense", "lite2"),
)
"""What it is, its figures, and whose milliseconds are its own."""

DECODERS = {
    decoding.OURS: "ours",
    decoding.PLAIN: "Pillow",
    "pillow_draft": "Pillow with `draft`",
    "simplejpeg": "simplejpeg",
    "cv2": "OpenCV",
    "tf_data": "tf.data",
}
NETWORKS = {"vgg16": "VGG16", "lite0": "EfficientNet-Lite0", "light": "both networks of `light`"}
ENGINES = {
    engines.OURS: "ONNX Runtime fp32",
    "onnxruntime_int8": "ONNX Runtime int8",
    "openvino_fp32": "OpenVINO fp32",
    "openvino_int8": "OpenVINO int8",
    "keras_fp32": "Keras",
}

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
        "decoding": ("decoding", lambda: from_jpegs(last["decoding"])),
        "engines": ("engines", lambda: of_engines(last["engines"])),
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
    """All cores are busy, so that each second costs as many."""
    rows = []
    for name, label in WAYS.items():
        unit = name.replace("-", "_")
        if f"{unit}_per_s" not in entry["figures"]:
            continue
        core_seconds = entry["machine"]["cores"] * 1000 / entry["figures"][f"{unit}_per_s"]
        rates = (with_spread(entry, f"{unit}_{one}") for one in ("per_s", "ratio"))
        rows.append((label, *rates, cost(core_seconds)))
    return [
        measured_by(entry),
        "",
        *markdown(("", "products a second", "times the first", "$ for 1,000 products"), rows),
    ]


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
        if f"{name}_weighted_f1" not in figures:
            continue
        took = figures.get(f"{milliseconds}_ms") if milliseconds else None
        f1, loss = f"{name}_weighted_f1", f"{name}_log_loss"
        goal = f"{entry['goals'][f1]}: {verdict(entry, f1)}" if f1 in entry["goals"] else ""
        rows.append(
            (label, f"{figures[f1]:.4f}", goal, f"{figures[loss]:.4f}", "" if took is None else f"{took:.1f}")
        )
    low, high = (figures[f"both_dense_weighted_f1_{end}"] for end in ("low", "high"))
    return [
        measured_by(entry),
        "",
        *markdown(("the image alone", "weighted F1", "goal", "log-loss", "ms of the networks"), rows),
        "",
        f"Learnt from {figures['learnt_from']:,.0f} real images, measured on {figures['measured_on']:,.0f} others; "
        f"both networks are between {low:.3f} and {high:.3f} (95 %).",
        *_lost(entry),
    ]


def _lost(entry: Entry) -> list[str]:
    name = "lost_by_a_small_scale"
    if name not in entry["figures"]:
        return []
    lost, goal = f"{entry['figures'][name]:.4f}", f"{entry['goals'][name]}: {verdict(entry, name)}"
    return ["", f"Decoding at a small scale loses {lost} of weighted F1 (goal {goal})."]


def from_jpegs(entry: Entry) -> list[str]:
    """Milliseconds of each way at each size, and how many times as fast ours is, beside the goal."""
    rows = []
    for way, label in DECODERS.items():
        cells = []
        for side in decoding.SIDES:
            cell, ratio = with_spread(entry, f"{way}_{side}_ms"), f"{way}_{side}_ratio"
            if way != decoding.OURS:
                cell += f"; {value(entry, ratio)} times (goal {entry['goals'][ratio][3:]}: {verdict(entry, ratio)})"
            cells.append(cell)
        rows.append((label, *cells))
    differences = (
        f"{value(entry, f'ours_{side}_largest_difference')} and {value(entry, f'ours_{side}_mean_difference')}"
        for side in decoding.SIDES
    )
    rows.append(("ours beside Pillow: largest and mean difference of a pixel, of 255", *differences))
    heads = ("ms", *(f"{side} x {side}" for side in decoding.SIDES))
    return [measured_by(entry), "", *markdown(heads, rows)]


def of_engines(entry: Entry) -> list[str]:
    """Milliseconds of each network in each engine, as a share of ONNX Runtime's, and how far the features agree."""
    rows = []
    for network, label in NETWORKS.items():
        cells = []
        for engine in ENGINES:
            cell = with_spread(entry, f"{network}_{engine}_ms")
            if cell and engine != engines.OURS:
                agreement = entry["figures"][f"{network}_{engine}_agreement"]
                cell += f"; {value(entry, f'{network}_{engine}_of_fp32')}, cosine {agreement:.4f}"
            cells.append(cell)
        rows.append((label, *cells))
    return [measured_by(entry), "", *markdown(("ms", *ENGINES.values()), rows)]

"""The recipe lstm-vgg16 on the real catalogue: what its text branch is worth, what an epoch and a product cost.

The first pass computes VGG16's features of every image; an epoch of the image head reads them from the cache. Keras's
own way would decode every image and run VGG16 in every epoch: measured on some images, and multiplied. Which weights
VGG16 begins with changes what it is worth, not what it costs.

With `--images N` only N products have an image, so that the first pass takes minutes; all of them have their title.
An epoch's share of it is then rather too large than too small, since what an epoch costs at least is shared by fewer.
"""

from __future__ import annotations

import csv
import json
import random
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, Options, Workplace, timed

EPOCH_GOAL, PRODUCT_GOAL = 0.02, 1 / 3
KERAS_BATCH, KERAS_BATCHES, PRODUCTS = 32, 3, 40
CALIBRATION_IMAGES = 48
PRODUCTS_FILE = "X_train_update.csv"


@dataclass(frozen=True, slots=True)
class Passes:
    """Seconds of the first pass over `images` images, and of an epoch of the image head on what it computed."""

    images: int
    first: float
    epoch: float


def run(options: Options) -> list[Figure]:
    real = options.real_catalogue()
    gold = real / "gold_dev.csv"
    with Workplace() as place:
        source = real if not options.images else fewer_images(real, place.path / "source", options.images)
        place.aisle("import", "--source", source)
        place.aisle("validate")
        place.aisle("prepare")
        light = place.aisle("train", "--recipe", "light", "--json").json()
        networks = place.aisle("train", "--recipe", "lstm-vgg16", "--json").json()
        f1 = {
            name: place.aisle(
                "evaluate", "--json", "--model", one["version"], "--data", gold, "--fields", "title"
            ).json()
            for name, one in (("light", light), ("lstm", networks))
        }
        metrics = json.loads((Path(networks["bundle"]) / "metrics.json").read_text())
        passes = passes_of((place.path / "logs_path" / "train_model_logger.log").read_text())
        attached = place.path / "data_path" / "runs" / networks["version"]
        command = [sys.executable, "-m", "benchmarks.networks", networks["bundle"], attached, place.raw]
        one = timed(command, cwd=Path(__file__).parents[1], env=place.environment).json()
    keras_epoch = one["keras_image_s"] * passes.images
    shares = {name: value / one["two_predicts_s"] for name, value in one["exported_s"].items()}
    return [
        *(Figure(f"gold_title_weighted_f1_{name}", figures["weighted_f1"]) for name, figures in f1.items()),
        *(Figure(f"test_{name}_weighted_f1", metrics[name]["weighted_f1"]) for name in ("all", "text", "image")),
        *(
            Figure(f"validation_{kind}_log_loss", metrics["fusion"][kind]["log_loss"])
            for kind in ("weighted_sum", "dense_head")
        ),
        Figure("images", passes.images),
        Figure("first_pass_s", passes.first),
        Figure("epoch_cached_s", passes.epoch),
        Figure("epoch_cached_share_of_first_pass", passes.epoch / passes.first, at_most=EPOCH_GOAL),
        Figure("epoch_keras_own_way_s", keras_epoch),
        Figure("epoch_keras_own_way_times_cached", keras_epoch / passes.epoch),
        Figure("two_keras_predicts_ms", 1000 * one["two_predicts_s"]),
        *(Figure(f"exported_{name}_ms", 1000 * value) for name, value in one["exported_s"].items()),
        *product_figures(shares, kept=metrics["image_encoder"]["kept"]),
    ]


def product_figures(shares: Mapping[str, float], *, kept: str) -> list[Figure]:
    """What one product costs by each precision, as a share of two Keras predicts; the goal is for what serves."""
    return [
        Figure(f"exported_{name}_share_of_keras", share, at_most=PRODUCT_GOAL if name == kept else None)
        for name, share in shares.items()
    ]


def passes_of(log: str) -> Passes:
    """Read off the log of trainings, of which one is `lstm-vgg16`, with nothing in the cache before it.

    Other recipes encode images, too: VGG16's are those that the image head is fitted on next.
    """
    lines = [json.loads(line) for line in log.splitlines()]
    fitting = next(at for at, line in enumerate(lines) if line["event"] == "fitting the image head")
    begins = [at for at, line in enumerate(lines) if line["event"] == "encoding images" and "to_encode" in line]
    encoding = max(at for at in begins if at < fitting)  # between the two are lines of its progress
    if lines[encoding]["cached"]:
        raise ValueError(f"{lines[encoding]['cached']} images were in the cache: this is no first pass")
    moments = [_moment(line) for line in lines if line["event"] == "epoch" and line["of"] == "image"]
    return Passes(
        images=lines[encoding]["to_encode"],
        first=_moment(lines[fitting]) - _moment(lines[encoding]),
        epoch=statistics.median(later - earlier for earlier, later in pairwise(moments)),
    )


def fewer_images(real: Path, folder: Path, images: int) -> Path:
    """The catalogue `real` in `folder`, where all but `images` of the products, drawn by chance, name no image."""
    folder.mkdir()
    for path in real.iterdir():
        if path.is_file() and path.name != PRODUCTS_FILE:
            (folder / path.name).symlink_to(path)
    with (real / PRODUCTS_FILE).open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    column = header.index("imageid")
    kept = set(random.Random(0).sample(range(len(rows)), min(images, len(rows))))  # noqa: S311
    for at, row in enumerate(rows):
        row[column] = row[column] if at in kept else ""
    with (folder / PRODUCTS_FILE).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return folder


def _moment(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def _with_keras(bundle: Path, attached: Path, raw: Path) -> dict[str, Any]:
    """In a process of its own: what one product costs by Keras and by the exported graphs, and an image by Keras."""
    from aisle.settings import provide

    provide(tf_cpp_min_log_level=2)
    import keras
    import numpy as np
    import polars as pl

    from aisle.data.images import open_images
    from aisle.inputs.image import decode
    from aisle.inputs.text import clean
    from aisle.model.bundle import Bundle
    from aisle.model.classifier import TEXT, Inputs
    from aisle.model.image import ImageEncoder
    from aisle.training.lstm_vgg16.graphs import vgg16_graph
    from aisle.training.lstm_vgg16.quantize import quantized

    images = open_images(raw)
    assert images is not None
    table = pl.read_csv(raw / PRODUCTS_FILE, infer_schema=False).drop_nulls(["designation", "imageid"])
    table = table.head(KERAS_BATCH * KERAS_BATCHES)
    names = table.select("imageid", "productid").rows()
    contents = [images.read(f"image_{image}_product_{product}") for image, product in names]
    titles = [clean(title) for title in table["designation"]]
    classifier = Bundle.load(bundle).classifier()
    tokenizer = classifier.models.texts[TEXT].tokenizer  # type: ignore[union-attr]
    text, image = (keras.models.load_model(attached / f"{name}_model.keras") for name in ("lstm", "vgg16"))
    fp32 = vgg16_graph(image.get_layer("image").get_layer("encoder"))
    size = ImageEncoder(fp32).size
    pixels = [decode(content, size) for content in contents]
    encoders = {
        "fp32": ImageEncoder(fp32),
        "int8": ImageEncoder(quantized(fp32, pixels[:CALIBRATION_IMAGES])),
    }

    def by_keras(row: int) -> None:
        words = tokenizer.ids(titles[row])[np.newaxis].astype(np.int32)
        text.predict(words, verbose=0)
        image.predict(pixels[row][np.newaxis].astype(np.float32), verbose=0)

    def by_graph(row: int, encoder: ImageEncoder) -> None:
        classifier.probabilities(Inputs([titles[row]], [""], [encoder.encode(pixels[row])]))

    def batch_by_keras(batch: list[bytes]) -> None:
        decoded = np.stack([decode(content, size) for content in batch]).astype(np.float32)
        image.predict(decoded, batch_size=KERAS_BATCH, verbose=0)

    seconds: dict[str, list[float]] = {"keras": [], **{name: [] for name in encoders}}
    for row in range(PRODUCTS + 3):  # side by side, so that what else the machine does meets all of them
        for name, several in seconds.items():
            started = time.perf_counter()
            by_keras(row) if name == "keras" else by_graph(row, encoders[name])
            if row >= 3:
                several.append(time.perf_counter() - started)
    batches = [contents[at : at + KERAS_BATCH] for at in range(0, len(contents), KERAS_BATCH)]
    batch_by_keras(batches[0])  # a new size of a batch is traced first, which an epoch does once
    started = time.perf_counter()
    for batch in batches:
        batch_by_keras(batch)
    return {
        "two_predicts_s": statistics.median(seconds["keras"]),
        "exported_s": {name: statistics.median(seconds[name]) for name in encoders},
        "keras_image_s": (time.perf_counter() - started) / len(contents),
    }


def main(arguments: Sequence[str]) -> None:
    bundle, attached, raw = map(Path, arguments)
    print(json.dumps(_with_keras(bundle, attached, raw)))


if __name__ == "__main__":
    main(sys.argv[1:])

"""The recipe lstm-vgg16 on the real catalogue: what its text branch is worth, what an epoch and a product cost.

The first pass computes VGG16's features of every image; an epoch of the image head reads them from the cache. Keras's
own way would decode every image and run VGG16 in every epoch: measured on some images, and multiplied. Which weights
VGG16 begins with changes what it is worth, not what it costs.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, Options, Workplace, timed

EPOCH_GOAL, PRODUCT_GOAL = 0.02, 1 / 3
KERAS_IMAGES, PRODUCTS = 96, 40


def run(options: Options) -> list[Figure]:
    real = options.real_catalogue()
    gold = real / "gold_dev.csv"
    with Workplace() as place:
        place.aisle("import", "--source", real)
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
        first_pass, epoch, images = _passes(place.path / "logs_path" / "train_model_logger.log")
        attached = place.path / "data_path" / "runs" / networks["version"]
        command = [sys.executable, "-m", "benchmarks.networks", networks["bundle"], attached, place.raw]
        one = timed(command, cwd=Path(__file__).parents[1], env=place.environment).json()
    keras_epoch = one["keras_image_s"] * images
    return [
        *(Figure(f"gold_title_weighted_f1_{name}", figures["weighted_f1"]) for name, figures in f1.items()),
        *(Figure(f"test_{name}_weighted_f1", metrics[name]["weighted_f1"]) for name in ("all", "text", "image")),
        *(
            Figure(f"validation_{kind}_log_loss", metrics["fusion"][kind]["log_loss"])
            for kind in ("weighted_sum", "dense_head")
        ),
        Figure("images", images),
        Figure("first_pass_s", first_pass),
        Figure("epoch_cached_s", epoch),
        Figure("epoch_cached_share_of_first_pass", epoch / first_pass, at_most=EPOCH_GOAL),
        Figure("epoch_keras_own_way_s", keras_epoch),
        Figure("epoch_keras_own_way_times_cached", keras_epoch / epoch),
        Figure("two_keras_predicts_ms", 1000 * one["two_predicts_s"]),
        *(Figure(f"exported_{name}_ms", 1000 * value) for name, value in one["exported_s"].items()),
        *(
            Figure(f"exported_{name}_share_of_keras", value / one["two_predicts_s"], at_most=PRODUCT_GOAL)
            for name, value in one["exported_s"].items()
        ),
    ]


def _passes(log: Path) -> tuple[float, float, int]:
    """Seconds of the first pass and of an epoch of the image head, and how many images, by the log."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    began = max(
        (at for at, line in enumerate(lines) if line["event"] == "encoding images" and "to_encode" in line),
        key=lambda at: (lines[at]["to_encode"], at),
    )
    head = next(at for at in range(began, len(lines)) if lines[at]["event"] == "fitting the image head")
    moments = [_moment(line) for line in lines if line["event"] == "epoch" and line["of"] == "image"]
    between = [later - earlier for earlier, later in pairwise(moments)]
    return _moment(lines[head]) - _moment(lines[began]), statistics.median(between), lines[began]["to_encode"]


def _moment(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def _with_keras(bundle: Path, attached: Path, raw: Path) -> dict[str, Any]:
    """In a process of its own: what one product costs by Keras and by the exported graphs, and an image by Keras."""
    from aisle.settings import provide

    provide(tf_cpp_min_log_level=2)
    import keras
    import numpy as np

    from aisle.data.images import open_images
    from aisle.inputs.image import decode
    from aisle.inputs.text import clean
    from aisle.model.bundle import Bundle
    from aisle.model.classifier import IMAGE, TEXT, Inputs
    from aisle.model.image import ImageEncoder
    from aisle.training.lstm_vgg16.quantize import quantized

    classifier = Bundle.load(bundle).classifier()
    graph = Bundle.load(bundle).encoder_graph() or b""
    images = open_images(raw)
    assert images is not None
    import polars as pl

    rows = pl.read_csv(raw / "X_train_update.csv", n_rows=KERAS_IMAGES, infer_schema=False).drop_nulls("designation")
    contents = [
        images.read(f"image_{image}_product_{product}")
        for image, product in rows.select("imageid", "productid").rows()
    ]
    titles = [clean(title) for title in rows["designation"]]
    size = ImageEncoder(graph).size
    text, image = (keras.models.load_model(attached / f"{name}_model.keras") for name in ("lstm", "vgg16"))
    tokenizer = classifier.models.texts[TEXT].tokenizer  # type: ignore[union-attr]
    pixels = [decode(content, size) for content in contents]

    graphs = {"fp32": graph}
    if graph and b"QuantizeLinear" not in graph:
        graphs["int8"] = quantized(graph, pixels[:48])
    else:
        graphs = {"int8": graph}
    encoders = {name: ImageEncoder(one) for name, one in graphs.items()}

    def by_keras(row: int) -> None:
        words = tokenizer.ids(titles[row])[np.newaxis].astype(np.int32)
        text.predict(words, verbose=0)
        image.predict(pixels[row][np.newaxis].astype(np.float32), verbose=0)

    def by_graph(row: int, encoder: ImageEncoder) -> None:
        classifier.probabilities(Inputs([titles[row]], [""], [encoder.encode(pixels[row])]))

    seconds: dict[str, list[float]] = {"keras": [], **{name: [] for name in encoders}}
    for row in range(PRODUCTS + 3):  # side by side, so that what else the machine does meets all of them
        for name, several in seconds.items():
            started = time.perf_counter()
            by_keras(row) if name == "keras" else by_graph(row, encoders[name])
            if row >= 3:
                several.append(time.perf_counter() - started)
    started = time.perf_counter()
    batch = np.stack([decode(content, size) for content in contents]).astype(np.float32)
    image.predict(batch, batch_size=32, verbose=0)
    keras_image = (time.perf_counter() - started) / len(contents)
    assert IMAGE in classifier.models.names()
    return {
        "two_predicts_s": statistics.median(seconds["keras"]),
        "exported_s": {name: statistics.median(seconds[name]) for name in encoders},
        "keras_image_s": keras_image,
    }


def main(arguments: Sequence[str]) -> None:
    bundle, attached, raw = map(Path, arguments)
    print(json.dumps(_with_keras(bundle, attached, raw)))


if __name__ == "__main__":
    main(sys.argv[1:])

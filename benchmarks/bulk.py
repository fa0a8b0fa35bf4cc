"""Bulk prediction of the real test products, as a share of what the sum of its stages allows.

Each stage runs alone on all cores over the same products: decode (bytes to pixels), encode (pixels to features),
text (clean, vectorise, heads, fusion; in one piece, its fastest way). The share is their sum divided by the time
of `predict_file`, which reads the table and the images and writes the output too. `read` is that part of it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Figure, Options, Workplace

ROUNDS = 5
SHARE_GOAL = 0.90
STAGES = ("decode", "encode", "text")


def run(options: Options) -> list[Figure]:
    real = options.real_catalogue()
    with Workplace() as place:
        folder = Path(options.model) if options.model else _train(place, real)
        products, rounds = _measure(folder, real, place.path)
    shares = [sum(one[stage] for stage in STAGES) / one["bulk"] for one in rounds]
    medians, fastest = ({name: of(one[name] for one in rounds) for name in rounds[0]} for of in (median, min))
    return [
        Figure("products", products),
        *(Figure(f"{name}_s", seconds) for name, seconds in medians.items()),
        Figure("bulk_products_per_s", products / medians["bulk"]),
        Figure("share", median(shares), at_least=SHARE_GOAL),
        Figure("share_lowest", min(shares)),
        Figure("share_highest", max(shares)),
        Figure("share_of_the_fastest", sum(fastest[stage] for stage in STAGES) / fastest["bulk"]),
    ]


def _train(place: Workplace, real: Path) -> Path:
    place.aisle("import", "--source", real)
    return Path(place.aisle("train", "--recipe", "light", "--json").json()["bundle"])


def _measure(model: Path, real: Path, scratch: Path) -> tuple[int, list[dict[str, float]]]:
    """How many products there are, and for each round the seconds of each stage and of the whole."""
    from aisle.batch.local import predict_file
    from aisle.batch.table import product_rows, read_product_table
    from aisle.data.images import open_images
    from aisle.inputs.image import decode
    from aisle.inputs.text import clean
    from aisle.logs import setup_logging
    from aisle.model.bundle import Bundle
    from aisle.model.classifier import Inputs
    from aisle.model.predictor import Predictor

    setup_logging(None, scratch, level="WARNING")
    source, images = real / "X_test_update.csv", open_images(real)

    def read() -> list[Any]:
        table = read_product_table(source, images=images)
        return [row.product for row in product_rows(table, images)]

    with Predictor(Bundle.load(model)) as predictor, ThreadPoolExecutor(os.cpu_count()) as pool:
        encoder = predictor._encoder
        assert encoder is not None, "the bundle has no image model"
        products = read()
        assert all(product.image for product in products)

        def encode(pixels: Any) -> Any:
            return encoder._session.run(None, {encoder._input: pixels[None]})[0][0]

        def text(features: list[Any]) -> Any:
            titles = [clean(one.title) for one in products]
            descriptions = [clean(one.description) for one in products]
            return predictor.classifier.probabilities(Inputs(titles, descriptions, features))

        def one_round() -> dict[str, float]:
            seconds = {}
            seconds["read"], _ = _clock(read)
            todo = [(one.image, encoder.size) for one in products]
            seconds["decode"], pixels = _clock(lambda: list(pool.map(lambda one: decode(*one), todo)))
            seconds["encode"], features = _clock(lambda: list(pool.map(encode, pixels)))
            seconds["text"], _ = _clock(partial(text, features))
            seconds["bulk"], _ = _clock(partial(predict_file, predictor, source, scratch / "out.csv", images=images))
            return seconds

        one_round()  # to warm up
        rounds = []
        for _ in range(ROUNDS):
            rounds.append(one_round())
            print(" ", {name: round(seconds, 3) for name, seconds in rounds[-1].items()}, file=sys.stderr, flush=True)
        return len(products), rounds


def _clock(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result

"""What is injected into windows of the generated and of the real catalogue, and how good the estimates are."""

from __future__ import annotations

import io
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from aisle.catalog import Product
from aisle.data.sample import write_sample
from aisle.data.validate import ContractOptions, validate
from aisle.inputs.image import decode_with_traits, light_of
from aisle.monitoring.detection import Group
from aisle.monitoring.labels import Labelled, from_confidence, from_labels
from aisle.store.predictions import Decided, Label
from benchmarks.drift_trials import (
    UNDRIFTED,
    WINDOW,
    Chance,
    Pool,
    Rows,
    Shop,
    answers,
    caught,
    false_alarms,
    open_shop,
    with_changed,
    with_more_of,
    with_strangers,
)
from benchmarks.measure import Figure

GENERATED_ROWS = 5_000
NEW_TYPE_RANKS = (1, 10, 18)
"""Types that a model did not learn and that then appear, by how many products they have."""
LEAST_HELD = 0.9
TIMED = 200


def generated(folder: Path) -> list[Figure]:
    print(f"  a generated catalogue of {GENERATED_ROWS:,} products", file=sys.stderr, flush=True)
    write_sample(folder / "raw", rows=GENERATED_ROWS, seed=0)
    validate(folder / "raw", folder / "validated")
    with open_shop(folder / "validated", folder / "generated") as shop:
        dropped = shop.changed(lambda product: replace(product, description=""))
        abroad = shop.changed(_English().product)
        return [
            false_alarms("generated", shop.pool),
            caught("generated_descriptions_dropped", shop.pool, with_changed(*dropped, 1.0)),
            caught("generated_descriptions_dropped_in_half", shop.pool, with_changed(*dropped, 0.5)),
            caught("generated_english_half", shop.pool, with_changed(*abroad, 0.5)),
            caught("generated_english_fifth", shop.pool, with_changed(*abroad, 0.2), goal=False),
            caught("generated_another_mix_half", shop.pool, with_more_of(_of_three_types, 0.5)),
            *_images("generated", shop),
        ]


def real(catalogue: Path, folder: Path) -> list[Figure]:
    print("  the real catalogue", file=sys.stderr, flush=True)
    validate(catalogue, folder / "real-validated", options=ContractOptions(0.5, allow_missing_types=True))
    with open_shop(folder / "real-validated", folder / "real") as shop:
        pool, renamed = shop.pool, shop.changed(_rename)
        return [
            false_alarms("real", pool),
            caught("real_another_mix_half", pool, with_more_of(_of_three_types, 0.5)),
            caught("real_another_mix_fifth", pool, with_more_of(_of_three_types, 0.2), goal=False),
            caught("real_english_half", pool, with_more_of(_in_english, 0.5)),
            caught("real_a_tenth_of_the_words_new", pool, with_changed(*renamed, 1.0)),
            _as_written(shop, catalogue),
            *_images("real", shop),
            *_new_types(shop),
            *_accuracy(shop),
            _cost(shop),
        ]


def _of_three_types(pool: Pool, chance: Chance) -> NDArray[np.bool_]:
    """Three types, drawn until they have enough products for a window."""
    while True:
        found = np.isin(pool.types, chance.choice(np.unique(pool.types), 3, replace=False))
        if found.sum() >= WINDOW:
            return found


def _in_english(pool: Pool, _: Chance) -> NDArray[np.bool_]:
    english: NDArray[np.bool_] = np.array(pool.rows.names["title_language"]) == "en"
    return english


def _images(name: str, shop: Shop) -> Iterator[Figure]:
    """Images that are altered, of all products or of a fifth; saving them again at quality 85 is no drift."""
    again = with_changed(*shop.changed(_with_image(lambda image: image)), 1.0)
    yield false_alarms(f"{name}_images_saved_again", shop.pool, again, goal=False)
    alterations: dict[str, Callable[[Image.Image], Image.Image | None]] = {
        "grey": lambda image: image.convert("L"),
        "rotated": lambda image: image.transpose(Image.Transpose.ROTATE_90),
        "tiny": lambda image: image.resize((32, 32), Image.Resampling.LANCZOS),
        "missing": lambda _: None,
    }
    for how, alter in alterations.items():
        changed = shop.changed(_with_image(alter))
        yield caught(f"{name}_images_{how}", shop.pool, with_changed(*changed, 1.0))
        yield caught(f"{name}_images_{how}_fifth", shop.pool, with_changed(*changed, 0.2), goal=False)


def _with_image(alter: Callable[[Image.Image], Image.Image | None]) -> Callable[[Product], Product]:
    def change(product: Product) -> Product:
        if product.image is None:
            return product
        try:
            altered = alter(Image.open(io.BytesIO(product.image)).convert("RGB"))
        except OSError:  # one of the broken ones of the generated catalogue
            return product
        if altered is None:
            return replace(product, image=None)
        out = io.BytesIO()
        altered.save(out, "JPEG", quality=85)
        return replace(product, image=out.getvalue())

    return change


class _English:
    """Products of the same images whose texts an English merchant wrote; a missing description stays missing."""

    _nouns = "pool toy book lamp chair table garden kitchen child phone cover game card figure pillow knife".split()
    _adjectives = "new small large wooden vintage blue red portable waterproof soft classic cheap strong used".split()
    _ends = ("for kids", "with free shipping", "in good condition", "set of four", "for the whole family", "by hand")

    def __init__(self) -> None:
        self._chance = np.random.default_rng(0)

    def product(self, product: Product) -> Product:
        description = ". ".join(self._phrase() for _ in range(3)) if product.description else ""
        return replace(product, title=self._phrase(), description=description)

    def _phrase(self) -> str:
        adjective, noun, end = (self._chance.choice(one) for one in (self._adjectives, self._nouns, self._ends))
        return f"The {adjective} {noun} {end}"


def _rename(product: Product) -> Product:
    """A tenth of the words is called otherwise from now on, each always the same."""

    def name(word: str) -> str:
        return f"{word[::-1]}x" if zlib.crc32(word.encode()) % 10 == 0 else word

    return replace(product, title=" ".join(map(name, product.title.split())))


def _as_written(shop: Shop, catalogue: Path) -> Figure:
    """Real titles as merchants wrote them, where the model learnt from normalised ones; they have no images."""
    table = pl.read_csv(catalogue / "gold_dev.csv", infer_schema=False)
    titles = [Product(title) for title in table["designation"].fill_null("") if title.strip()]
    written = with_strangers(shop.observed(answers(shop.predictor, titles)), 1.0)
    texts: tuple[Group, ...] = ("text",)
    return caught("real_titles_as_written", shop.pool, written, groups=texts)


def _new_types(shop: Shop) -> Iterator[Figure]:
    """A fifth, or a tenth, of the window is of a type that the model never saw."""
    counts = Counter(shop.prepared.products()["type_code"].to_list()).most_common()
    for rank in NEW_TYPE_RANKS:
        pool, strangers = shop.without(counts[rank - 1][0])
        name = f"real_new_type_of_rank_{rank}"
        yield caught(f"{name}_fifth", pool, with_strangers(strangers, 0.2))
        yield caught(f"{name}_tenth", pool, with_strangers(strangers, 0.1), goal=False)


def _accuracy(shop: Shop) -> list[Figure]:
    """Of undrifted windows: how often the share that was right is in the intervals that are given for it."""
    right, confidence = shop.pool.right, shop.pool.rows.numbers["confidence"].astype(float)
    held, by_labels, off, as_they_come = 0, 0, [], []
    for seed in range(UNDRIFTED):
        chance = np.random.default_rng(seed)
        reference, rest = shop.pool.draw(chance)
        window = chance.choice(rest, WINDOW, replace=False)
        truth = float(right[window].mean())
        estimate = from_confidence(confidence[window].tolist(), reference)
        assert estimate is not None
        held += estimate.low <= truth <= estimate.high
        off.append(abs(estimate.value - truth))
        labelled, taken = _labelled(shop, window, chance)
        by_labels += labelled.accuracy.low <= truth <= labelled.accuracy.high
        as_they_come.append(abs(float(right[taken].mean()) - truth))
    return [
        Figure("real_estimate_without_labels_holds", held / UNDRIFTED, at_least=LEAST_HELD),
        Figure("real_estimate_without_labels_is_off_by", float(np.mean(off))),
        Figure("real_labels_interval_holds", by_labels / UNDRIFTED, at_least=LEAST_HELD),
        Figure("real_labels_as_they_come_are_off_by", float(np.mean(as_they_come))),
    ]


def _labelled(shop: Shop, window: Rows, chance: Chance) -> tuple[Labelled, Rows]:
    """People look at half of what is for review, and at a tenth of what was accepted."""
    pool, threshold = shop.pool, shop.predictor.threshold or 1.0
    confidence = pool.rows.numbers["confidence"].astype(float)
    accepted = confidence >= threshold
    taken = window[chance.random(len(window)) < np.where(accepted[window], 0.1, 0.5)]
    at = datetime(2026, 1, 1, tzinfo=UTC)
    labels = [
        Label(
            created_at=at,
            predicted=pool.rows.names["predicted"][row],
            confidence=float(confidence[row]),
            decision="accept" if accepted[row] else "review",
            type_code=str(pool.types[row]),
        )
        for row in taken.tolist()
    ]
    decided = {
        name: Decided(int(those.sum()), float(confidence[window][those].mean()))
        for name, those in (("accept", accepted[window]), ("review", ~accepted[window]))
    }
    found = from_labels(labels, decided)
    assert found is not None
    return found, taken


def _cost(shop: Shop) -> Figure:
    """What is remembered of an image, as a share of the time of a prediction: measured by doing it once more."""
    products = [one for one in shop.products if one.image is not None][:TIMED]
    axes = shop.pool.reference.axes
    assert axes is not None
    features = np.zeros(len(axes.mean), np.float32)
    predicting, remembering = [], []
    for product in products:
        assert product.image is not None
        pixels, _ = decode_with_traits(product.image, 224)
        started = time.perf_counter()
        shop.predictor.predict([product])
        predicted = time.perf_counter()
        light_of(pixels)
        axes.along(features)
        remembering.append(time.perf_counter() - predicted)
        predicting.append(predicted - started)
    return Figure("traits_share_of_predict", float(np.median(remembering) / np.median(predicting)), at_most=0.02)

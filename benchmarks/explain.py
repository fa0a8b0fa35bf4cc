"""How long an explanation takes, of a real title and its 500 x 500 JPEG, on all cores of this machine."""

from __future__ import annotations

import os
import statistics
import time

from benchmarks.measure import Figure, Options, Workplace
from benchmarks.service import champion_of, shown_products

PRODUCTS, GOAL_MS = 40, 1000


def run(options: Options) -> list[Figure]:
    from aisle.catalog import Product
    from aisle.model.bundle import Bundle
    from aisle.model.explain import explain
    from aisle.model.predictor import Predictor

    real = options.real_catalogue()
    shown = [Product(one.title, "", one.image) for one in shown_products(real)[: PRODUCTS + 1]]
    taken, parts = [], []
    with (
        Workplace() as place,
        Predictor(Bundle.load(champion_of(place, options, real)), threads=os.cpu_count() or 1) as predictor,
    ):
        for product in shown:
            started = time.perf_counter()
            explanation = explain(predictor, product)
            taken.append((time.perf_counter() - started) * 1000)
            parts.append(0 if explanation.heat_map is None else explanation.heat_map.size)
    first, rest = taken[0], sorted(taken[1:])
    return [
        Figure("first_ms", first),
        Figure("median_ms", statistics.median(rest), at_most=GOAL_MS),
        Figure("p95_ms", rest[int(0.95 * len(rest))], at_most=GOAL_MS),
        Figure("parts_of_the_heat_map", statistics.median(parts[1:])),
    ]

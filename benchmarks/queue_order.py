"""What the order of the review queue is worth on real products: the same number of corrections in three orders.

A model that knows a part of the catalogue is asked about the rest. What it sends to review waits in the database, as
for the console; a person corrects some of it: as the queue has it, the least confident first, or drawn by chance. The
model learns again with the corrections, and so on. Measured on products that are in none of that: the test side of
the catalogue, and official labels where they are.

The models read titles, as corrections have no images, and are those of `light` without its transformer, which takes
more titles than a shop begins with.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Figure, Options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sqlalchemy import Connection

    from aisle.training.examples import Examples, Rows
    from aisle.training.learner import Learnt

KNOWN, AT_ONCE, ROUNDS, SEEDS = 1000, 200, 6, 5
ORDERS = ("queue", "least_sure", "chance")


def run(options: Options) -> list[Figure]:
    from aisle.data.prepare import ensure_prepared
    from aisle.settings import Settings
    from aisle.training.examples import Examples

    real = options.real_catalogue()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(cache_path=Path(folder))
        prepared = replace(ensure_prepared(real, settings, threads=settings.cores), images_path=None)
        examples = Examples(prepared, Path(folder), settings.cores)
        gold = _official(real / "gold_dev.csv", examples.codes)
        curves = {
            (order, seed): _curve(examples, gold, order, seed, Path(folder))
            for seed in range(SEEDS)
            for order in ORDERS
        }
    return [*_figures(curves, "official"), *_figures(curves, "test_side")]


@dataclass(frozen=True)
class Point:
    """Weighted F1 after so many corrections, and how many products waited for one."""

    corrections: int
    waiting: int
    official: float
    test_side: float


def _figures(curves: dict[tuple[str, int], list[Point]], measured: str) -> list[Figure]:
    figures = []
    for number in range(ROUNDS + 1):
        said = {order: [getattr(curves[order, seed][number], measured) for seed in range(SEEDS)] for order in ORDERS}
        corrections = number * AT_ONCE
        figures += [Figure(f"{measured}_{order}_{corrections}", statistics.mean(said[order])) for order in ORDERS]
        if number:
            gains = [100 * (ours - theirs) for ours, theirs in zip(said["queue"], said["chance"], strict=True)]
            figures.append(Figure(f"{measured}_gain_{corrections}_points", statistics.mean(gains), at_least=0))
            figures.append(Figure(f"{measured}_gain_{corrections}_error", _standard_error(gains)))
    return figures


def _standard_error(values: Sequence[float]) -> float:
    return float(statistics.stdev(values) / len(values) ** 0.5)


def _curve(examples: Examples, gold: Rows, order: str, seed: int, folder: Path) -> list[Point]:
    """Learn, ask, be corrected, learn again."""
    import numpy as np
    import polars as pl

    from aisle.data.split import Side
    from aisle.store.engine import open_database, writing
    from aisle.store.migrate import migrate
    from aisle.training.checkpoints import Checkpoints
    from aisle.training.light import LightLearner
    from aisle.training.recipes import Light

    chance = np.random.default_rng(seed)
    keys = np.array(examples.keys(Side.TRAIN))
    pool = examples.rows(Side.TRAIN, graph=None)
    test = examples.rows(Side.TEST, graph=None)
    is_known = np.zeros(len(keys), dtype=bool)
    is_known[chance.permutation(len(keys))[:KNOWN]] = True
    engine = open_database(f"sqlite:///{folder / f'{order}-{seed}.db'}")
    migrate(engine)
    points: list[Point] = []
    for number in range(ROUNDS + 1):
        side, known = pl.col("side"), pl.col("key").is_in(keys[is_known].tolist())
        fewer = examples.where((side == Side.VALIDATION.value) | ((side == Side.TRAIN.value) & known))
        stages = Checkpoints(folder, f"{order}-{seed}-{number}")
        learnt = LightLearner(Light(transformer=None)).learn(fewer, stages)
        stages.clear()
        asked = np.flatnonzero(~is_known)
        probabilities = learnt.classifier.probabilities(pool.at(asked).inputs)
        waiting = _undecided(learnt, probabilities)
        points.append(Point(number * AT_ONCE, len(waiting), _weighted_f1(learnt, gold), _weighted_f1(learnt, test)))
        if order == "queue":
            with writing(engine) as connection:
                codes = examples.codes
                chosen = _as_the_queue_has_it(connection, asked[waiting], probabilities[waiting], codes, pool, number)
        elif order == "chance":
            chosen = chance.permutation(asked[waiting])[:AT_ONCE]
        else:
            chosen = asked[waiting][np.argsort(probabilities[waiting].max(axis=1), kind="stable")[:AT_ONCE]]
        is_known[chosen] = True
    engine.dispose()
    last = points[-1]
    print(f"  {order} {seed}: {points[0].official:.4f} -> {last.official:.4f}, {last.waiting} wait", flush=True)
    return points


def _undecided(learnt: Learnt, probabilities: Any) -> NDArray[np.intp]:
    import numpy as np

    threshold = learnt.thresholds["0.98"]
    return np.flatnonzero(probabilities.max(axis=1) < (2.0 if threshold is None else threshold))


def _weighted_f1(learnt: Learnt, rows: Rows) -> float:
    from aisle.training.evaluate import measure

    said = learnt.classifier.probabilities(rows.inputs)
    figure: float = measure(said, rows.targets, learnt.classifier.codes)["weighted_f1"]
    return figure


def _as_the_queue_has_it(
    connection: Connection, rows: NDArray[np.intp], probabilities: Any, codes: Sequence[str], pool: Rows, number: int
) -> NDArray[np.intp]:
    """The next products by the console's own queue, each corrected to its label."""
    from datetime import UTC, datetime

    import numpy as np
    from sqlalchemy import update

    from aisle.store import predictions, reviews, schema
    from aisle.store.predictions import Feedback

    now, found = datetime(2026, 1, 1, tzinfo=UTC), []
    connection.execute(update(schema.reviews).values(doubt=None))  # what the model before was unsure of
    records = [
        _record(f"{number}-{row}", row, said, codes, now)
        for row, said in zip(rows.tolist(), probabilities, strict=True)
    ]
    predictions.add(connection, records)
    reviews.enqueue(connection, records)
    for _ in range(min(AT_ONCE, len(records))):
        record = reviews.next_one(connection, at=now)
        if record is None:
            break
        row = int(record.input_hash)
        given = Feedback(record.id, now, "reviewer", codes[pool.targets[row]])
        predictions.add_feedback(connection, given)
        reviews.looked_at(connection, record.id)
        found.append(row)
    return np.array(found, dtype=np.intp)


def _record(name: str, row: int, said: Any, codes: Sequence[str], at: Any) -> Any:
    from aisle.catalog import Decision
    from aisle.store.predictions import PredictionRecord

    best = (-said).argsort(kind="stable")[:5]
    top = [{"code": codes[one], "label": "", "confidence": float(said[one])} for one in best]
    return PredictionRecord(
        id=name, created_at=at, user_name="shop", input_hash=str(row), designation="", description="",
        image_hash=None, predicted=codes[best[0]], confidence=float(said[best[0]]), top=top,
        decision=Decision.REVIEW.value, model_version="",
    )  # fmt: skip


def _official(path: Path, codes: Sequence[str]) -> Rows:
    import csv

    import numpy as np

    from aisle.inputs.text import clean
    from aisle.model.classifier import Inputs
    from aisle.training.examples import Rows

    with path.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["prdtypecode"] in codes]
    titles = [clean(row["designation"]) for row in rows]
    targets = np.array([codes.index(row["prdtypecode"]) for row in rows], dtype=np.intp)
    return Rows(Inputs(titles, [""] * len(rows), [None] * len(rows)), targets, np.ones(len(rows)))

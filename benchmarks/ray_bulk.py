"""Bulk prediction of the real test products on Ray: beside `--engine local`, on more nodes, and with a loss.

Rates leave the start out: from when each worker has done two pieces, the later of them, to the last piece, whose part
is written by then. Nodes are Ray's own on this machine, of one processor each; the head has none.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from benchmarks.measure import Figure, Options, Workplace

ROUNDS = 3
CORES = 2
ROWS = 32
LEFT_OUT = 2 * CORES
SHARE_GOAL, SPEED_UP_GOAL = 0.85, 1.7
MOST_DIFFERENT = 1e-6


def run(options: Options) -> list[Figure]:
    real = options.real_catalogue()
    with Workplace() as place:
        folder = Path(options.model) if options.model else _train(place, real)
        rates, lost, different = _measure(folder.resolve(), real, place.path)
    shares = [ray / local for ray, local in zip(rates["ray"], rates["local"], strict=True)]
    speed_ups = [two / one for two, one in zip(rates["two_nodes"], rates["one_node"], strict=True)]
    return [
        *(Figure(f"{name}_products_per_s", median(found)) for name, found in rates.items()),
        Figure("share_of_local", median(shares), at_least=SHARE_GOAL),
        Figure("share_of_local_lowest", min(shares)),
        Figure("two_nodes_speed_up", median(speed_ups), at_least=SPEED_UP_GOAL),
        Figure("two_nodes_speed_up_lowest", min(speed_ups)),
        Figure("killed_worker_rows_lost", lost, at_most=0),
        Figure("killed_worker_largest_difference", different, at_most=MOST_DIFFERENT),
    ]


def _train(place: Workplace, real: Path) -> Path:
    place.aisle("import", "--source", real)
    return Path(place.aisle("train", "--recipe", "light", "--json").json()["bundle"])


def _measure(model: Path, real: Path, scratch: Path) -> tuple[dict[str, list[float]], int, float]:
    import polars as pl
    from tests.batch.cluster_nodes import ray_nodes, workers

    from aisle.batch.bulk import BulkOptions, local_engine, predict_table
    from aisle.batch.cluster import cluster_engine
    from aisle.batch.local import Engine
    from aisle.batch.parts import Parts
    from aisle.batch.pieces import Piece
    from aisle.batch.places import Place
    from aisle.batch.predicting import Task
    from aisle.logs import setup_logging
    from aisle.model.bundle import Bundle

    setup_logging(None, scratch, level="WARNING")
    bundle, options = Bundle.load(model), BulkOptions(images=Place(str(real)), rows=ROWS)

    def predicted(engine: Engine, name: str, at: Callable[[int], None] = lambda _: None) -> float:
        """Products a second."""
        given: list[tuple[float, int]] = []

        def watched(task: Task, pieces: Sequence[Piece], parts: Parts) -> Iterator[Piece]:
            for piece in engine(task, pieces, parts):
                given.append((time.perf_counter(), piece.rows))
                at(len(given))
                yield piece

        predict_table(bundle, Place(str(real / "X_test_update.csv")), Place(str(scratch / name)), watched, options)
        seconds = given[-1][0] - given[LEFT_OUT - 1][0]
        rate = sum(rows for _, rows in given[LEFT_OUT:]) / seconds
        print(f"  {name}: {rate:.1f} products/s", file=sys.stderr, flush=True)
        return rate

    def kill_one(done: int) -> None:
        if done == LEFT_OUT:
            workers()[0].kill()

    rates: dict[str, list[float]] = {name: [] for name in ("local", "ray", "one_node", "two_nodes")}
    for _ in range(ROUNDS):
        rates["local"].append(predicted(local_engine(CORES), "local.parquet"))
        rates["ray"].append(predicted(cluster_engine("", CORES), "ray.parquet"))
        with ray_nodes(1) as nodes:
            rates["one_node"].append(predicted(cluster_engine(nodes.address, CORES), "one_node.parquet"))
        with ray_nodes(2) as nodes:
            rates["two_nodes"].append(predicted(cluster_engine(nodes.address, CORES), "two_nodes.parquet"))
    with ray_nodes(2) as nodes:
        predicted(cluster_engine(nodes.address, CORES), "killed.parquet", kill_one)
    expected, found = (pl.read_parquet(scratch / f"{name}.parquet") for name in ("local", "killed"))
    numbers = ["confidence", "top_k"]
    same = found.schema == expected.schema and found.drop(numbers).equals(expected.drop(numbers))
    assert same, "after a worker was killed types or order differ"
    pairs = zip(_confidences(expected), _confidences(found), strict=True)
    return rates, len(expected) - len(found), max(abs(one - other) for one, other in pairs)


def _confidences(table: object) -> list[float]:
    column = table["top_k"].to_list()  # type: ignore[index]
    return [one["confidence"] for cell in column if cell for one in json.loads(cell)]

"""Bulk prediction of real products on one machine, and as a job over HTTP.

- `share`: the core-seconds of the stages (read, decode, encode, text, write) over the cores, divided by the time of
  the whole command, start included. As many processes as there are cores do a share of the pieces each, one stage
  after the other, so that a stage has as much of the machine as it has in the run.
- titles alone: products a second of the whole command, and its largest memory, all processes together, at 10,000 and
  100,000 rows. They are the real titles, each with a number behind it.
- a job: from POST /batches until the result is there, beside the command line, in turn.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Figure, Options, Workplace, executable
from benchmarks.service import DATABASE, champion_of, running_service, token_service

ROUNDS = 3
STAGES = ("read", "decode", "encode", "text", "write")
SHARE_GOAL, TITLES_GOAL, MEMORY_GOAL, JOB_GOAL = 0.95, 3000, 1.10, 1.3
FEW, MANY = 10_000, 100_000
CORES = os.cpu_count() or 1


def run(options: Options) -> list[Figure]:
    real = options.real_catalogue()
    with Workplace() as place:
        model = champion_of(place, options, real)
        with_images = _with_images(place, model, real)
        titles = _write_titles(place.path, real)
        return [*with_images, *_of_titles(place, titles), *_of_a_job(place, titles[MANY])]


def _with_images(place: Workplace, model: Path, real: Path) -> list[Figure]:
    table = real / "X_train_update.csv"
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        seconds = _stage_seconds(model, table, real)
        ran = _watched(place, "predict", table, "--images", real, "--output", "out.parquet", "--json")
        rounds.append({**seconds, "bulk": ran.seconds, "rows": json.loads(ran.output)["rows"], "mb": ran.peak_mb})
        print(" ", {name: round(value, 2) for name, value in rounds[-1].items()}, file=sys.stderr, flush=True)
    shares = [sum(one[stage] for stage in STAGES) / CORES / one["bulk"] for one in rounds]
    medians = {name: median(one[name] for one in rounds) for name in rounds[0]}
    return [
        Figure("products", medians["rows"]),
        *(Figure(f"{name}_core_s", medians[name]) for name in STAGES),
        Figure("bulk_s", medians["bulk"]),
        Figure("bulk_products_per_s", medians["rows"] / medians["bulk"]),
        Figure("bulk_peak_mb", medians["mb"]),
        Figure("share", median(shares), at_least=SHARE_GOAL),
        Figure("share_lowest", min(shares)),
        Figure("share_highest", max(shares)),
    ]


def _of_titles(place: Workplace, titles: dict[int, Path]) -> list[Figure]:
    runs = {rows: [_predict(place, table) for _ in range(ROUNDS)] for rows, table in titles.items()}
    rates = [MANY / one.seconds for one in runs[MANY]]
    few, many = (median(one.peak_mb for one in runs[rows]) for rows in (FEW, MANY))
    return [
        Figure("titles_per_s", median(rates), at_least=TITLES_GOAL),
        Figure("titles_per_s_lowest", min(rates)),
        Figure(f"titles_{FEW}_peak_mb", few),
        Figure(f"titles_{MANY}_peak_mb", many),
        Figure("memory_ratio", many / few, at_most=MEMORY_GOAL),
    ]


def _of_a_job(place: Workplace, table: Path) -> list[Figure]:
    jobs, commands = [], []
    quiet = subprocess.DEVNULL
    with ExitStack() as stack:
        token, auth_url = stack.enter_context(token_service(place))
        server = stack.enter_context(running_service(place, auth_url))
        environment = {**place.environment, "DATABASE_URL": DATABASE}
        worker = subprocess.Popen(
            [executable(), "worker"], cwd=place.path, env=environment, stdout=quiet, stderr=quiet
        )
        try:
            client = _Client(f"http://{server.host}:{server.port}", token)
            client.predicted(table)  # to warm up
            for _ in range(ROUNDS):
                jobs.append(client.predicted(table))
                commands.append(_predict(place, table).seconds)
                print(f"  job {jobs[-1]:.1f} s, command {commands[-1]:.1f} s", file=sys.stderr, flush=True)
        finally:
            worker.terminate()
            worker.wait()
    ratios = [job / command for job, command in zip(jobs, commands, strict=True)]
    return [
        Figure("job_s", median(jobs)),
        Figure("command_s", median(commands)),
        Figure("job_ratio", median(ratios), at_most=JOB_GOAL),
        Figure("job_ratio_highest", max(ratios)),
    ]


class _Client:
    def __init__(self, url: str, token: str) -> None:
        import httpx

        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def predicted(self, table: Path) -> float:
        """Seconds until the result of a batch is here."""
        start = time.perf_counter()
        with table.open("rb") as stream:
            batch = self._http.post("/batches", files={"table": (table.name, stream)}).raise_for_status().json()
        while batch["state"] in ("waiting", "running"):
            time.sleep(0.1)
            batch = self._http.get(f"/batches/{batch['id']}").raise_for_status().json()
        assert batch["state"] == "done", batch
        result = self._http.get(f"/batches/{batch['id']}/results").raise_for_status().content
        seconds = time.perf_counter() - start
        assert result.count(b"\n") == MANY + 1
        return seconds


@dataclass(frozen=True)
class _Watched:
    seconds: float
    peak_mb: float
    output: str


def _predict(place: Workplace, table: Path) -> _Watched:
    return _watched(place, "predict", table, "--output", "out.csv", "--json")


def _watched(place: Workplace, *words: str | Path) -> _Watched:
    """A command with the most memory that it and its processes ever had together."""
    import psutil  # type: ignore[import-untyped]

    start = time.perf_counter()
    process = subprocess.Popen(
        [executable(), *words], cwd=place.path, env=place.environment, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    first, peak, over = psutil.Process(process.pid), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.05):
            peak = max(peak, sum(map(_memory, [first, *_children(first)])))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = process.communicate()[0]
    seconds = time.perf_counter() - start
    over.set()
    watcher.join()
    assert process.returncode == 0, words
    return _Watched(seconds, peak / 1e6, output)


def _children(process: Any) -> list[Any]:
    import psutil

    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def _memory(process: Any) -> int:
    import psutil

    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _write_titles(folder: Path, real: Path) -> dict[int, Path]:
    with (real / "X_train_update.csv").open(encoding="utf-8", newline="") as stream:
        titles = [row["designation"] for row in csv.DictReader(stream)]
    written = {}
    for rows in (FEW, MANY):
        written[rows] = folder / f"titles-{rows}.csv"
        with written[rows].open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["index", "designation"])
            writer.writerows([number, f"{titles[number % len(titles)]} {number}"] for number in range(rows))
    return written


def _stage_seconds(model: Path, table: Path, images: Path) -> dict[str, float]:
    """Core-seconds of each stage over all rows, each core busy with its share of them."""
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        arguments = [(model, table, images, core) for core in range(CORES)]
        found: Sequence[dict[str, float]] = pool.starmap(_stages_of_a_core, arguments, chunksize=1)
    return {stage: sum(one[stage] for one in found) for stage in STAGES}


def _stages_of_a_core(model: Path, table: Path, images: Path, core: int) -> dict[str, float]:
    from aisle.batch.bulk import BulkOptions, make_task
    from aisle.batch.images import open_images_at
    from aisle.batch.parts import Parts
    from aisle.batch.pieces import PieceReader
    from aisle.batch.places import Place
    from aisle.batch.predicting import TaskPredictor, batched_rows
    from aisle.batch.table import product_rows
    from aisle.model.bundle import Bundle
    from aisle.model.predictor import Predictor

    bundle = Bundle.load(model)
    place = Place(str(images))
    task = make_task(bundle, Place(str(table)), BulkOptions(images=place))
    reader, found = PieceReader(task.source), open_images_at(place)
    seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[stage] += time.perf_counter() - start

    with (
        Workplace() as scratch,
        Predictor(bundle, threads=1) as predictor,
        TaskPredictor(task, threads=1, predictor=predictor) as whole,
    ):
        parts = Parts(Place("out.parquet"), Place(str(scratch.path / "parts")))
        encoder = predictor.encoder
        assert encoder is not None, "the bundle has no image model"
        for piece in task.source.pieces[core::CORES]:
            with timed("read"):
                frame = reader.read(piece)
                rows = list(product_rows(frame, found))
            seen = []
            for row in rows:
                assert row.product.image
                with timed("decode"):
                    pixels, _ = encoder.decode(row.product.image)
                with timed("encode"):
                    seen.append(encoder.encode(pixels))
            with timed("text"):
                outcomes: list[Any] = []
                for batch in batched_rows(iter(rows)):
                    known = seen[len(outcomes) : len(outcomes) + len(batch)]
                    said = predictor.predict([row.product for row in batch], seen=known)
                    outcomes += zip(batch, said, strict=True)
                result = whole.result(frame, outcomes)
            with timed("write"):
                parts.write(piece.number, result)
    reader.close()
    return seconds

"""`python -m benchmarks.check`: has anything become slower than what was accepted last?

Each figure is what ours costs over what a way of others costs that does the same or nearly so, in CPU seconds of one
thread, in turn, in one run: a slower or busier machine slows both. `accepted.json` has the ratios that were accepted;
`--accept` writes them anew. Exit code 4: a ratio is more than a quarter above the accepted one, each time that it was
measured.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

ACCEPTED = Path(__file__).with_name("accepted.json")
ROUNDS, SECONDS = 3, 1.0
"""At least so many rounds, and as many more as make so many CPU seconds: what takes 20 ms is soon disturbed."""
SLOWER = 1.25
"""So many times the accepted ratio is too much. Between two runs on one busy machine they differ by a tenth."""
TIMES = 3
"""What is too much is measured so often at most: what became slower is so each time, what was disturbed is not."""
REGRESSED = 4
TITLES, PHOTOS, PRODUCTS, ROWS = 200, 12, 12, 1000


@dataclass(frozen=True, slots=True)
class Pair:
    """What is measured, and what beside; both do their work anew each time."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object]


def main(arguments: Sequence[str], *, accepted: Path = ACCEPTED) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a bundle of `light`, to train none")
    parser.add_argument("--accept", action="store_true", help=f"write what is found to {accepted.name}")
    chosen = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="aisle-check-") as folder:
        measured = pairs(chosen.model, Path(folder))
        if chosen.accept:
            found = {pair.name: ratio(pair) for pair in measured}
            accepted.write_text(json.dumps({name: round(one, 3) for name, one in found.items()}, indent=2) + "\n")
            print(f"written: {accepted}")
            return 0
        known = json.loads(accepted.read_text())
        found = ratios(measured, known)
    print(report(found, known))
    return REGRESSED if slower(found, known) else 0


def ratios(chosen: Sequence[Pair], accepted: Mapping[str, float]) -> dict[str, float]:
    """By name; of what is measured again because it seems slower, the least."""
    found = {pair.name: ratio(pair) for pair in chosen}
    for _ in range(TIMES - 1):
        again = slower(found, accepted)
        found |= {pair.name: min(found[pair.name], ratio(pair)) for pair in chosen if pair.name in again}
    return found


def slower(found: Mapping[str, float], accepted: Mapping[str, float]) -> list[str]:
    """The names of what became slower; what nobody has accepted yet counts as well."""
    return [name for name, one in found.items() if one > SLOWER * accepted.get(name, 0.0)]


def report(found: Mapping[str, float], accepted: Mapping[str, float]) -> str:
    """A line for each: the ratio, the accepted one, and what is to be said of it."""
    lines = [f"{'':<18}{'found':>8}{'accepted':>10}"]
    for name, one in found.items():
        known = accepted.get(name)
        said = "NOT ACCEPTED YET" if known is None else "SLOWER" if one > SLOWER * known else ""
        if known is not None and one < known / SLOWER:
            said = "faster: --accept it"
        lines.append(f"{name:<18}{one:>8.3f}{'-' if known is None else f'{known:.3f}':>10}  {said}".rstrip())
    return "\n".join(lines)


def ratio(pair: Pair) -> float:
    """The median over rounds; the first round, in which all is still cold, does not count."""
    found: list[float] = []
    spent = 0.0
    while len(found) <= ROUNDS or spent < SECONDS:
        ours, theirs = _seconds(pair.ours), _seconds(pair.theirs)
        found.append(ours / theirs)
        spent += ours + theirs
    return statistics.median(found[1:])


def _seconds(work: Callable[[], object]) -> float:
    before = cpu()
    work()
    return cpu() - before


def cpu() -> float:
    """CPU seconds of this process and of those that it waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def pairs(model: Path | None, folder: Path) -> list[Pair]:
    from benchmarks.rivals.products import drawn

    shown = drawn(TITLES)
    photos = [one.image for one in shown[:PHOTOS]]
    return [
        _imports("start_service", "aisle.service.app", "fastapi, sqlalchemy, alembic, onnxruntime, scipy.sparse"),
        _imports("start_worker", "aisle.batch.worker", "polars, pyarrow, sqlalchemy, alembic, scipy.sparse"),
        _imports("start_command", "aisle.cli", "click, structlog, pydantic_settings"),
        *(_decoding(photos, side) for side in (500, 1000)),
        *_predicting(model or _trained(folder), [one.title for one in shown], photos),
        _catalogue(folder),
    ]


def _imports(name: str, ours: str, theirs: str) -> Pair:
    """A process that imports it, beside one that imports the libraries that it stands on."""

    def starting(modules: str) -> Callable[[], object]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", f"import {modules}"]
        return lambda: subprocess.run(command, check=True, env=environment)

    return Pair(name, starting(ours), starting(theirs))


def _decoding(photos: Sequence[bytes], side: int) -> Pair:
    """JPEGs to the pixels of the image network, beside Pillow's whole decoding."""
    import io

    import numpy as np
    from PIL import Image

    from aisle.inputs.image import decode
    from aisle.training.efficientnet import SIZE
    from benchmarks.decoding import enlarged

    large = [enlarged(one, side) for one in photos]

    def pillow(data: bytes) -> object:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))

    return Pair(f"decode_{side}", lambda: [decode(one, SIZE) for one in large], lambda: list(map(pillow, large)))


def _predicting(model: Path, titles: Sequence[str], photos: Sequence[bytes]) -> list[Pair]:
    """Titles, beside scikit-learn's TF-IDF of them; products with a photo, beside the image network alone."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    from aisle.catalog import Product
    from aisle.model.bundle import Bundle
    from aisle.model.image import ImageEncoder
    from aisle.model.predictor import Predictor

    bundle = Bundle.load(model)
    predictor = Predictor(bundle, threads=1)
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5)).fit(titles)
    graph = bundle.encoder_graph()
    assert graph is not None
    encoder = ImageEncoder(graph)
    pixels = [encoder.decode(one)[0] for one in photos]
    products = [Product(title, "", photo) for title, photo in zip(titles, photos, strict=False)]
    alone = [Product(title) for title in titles]
    return [
        Pair("titles", lambda: predictor.predict(alone), lambda: vectorizer.transform(titles)),
        Pair("products", lambda: predictor.predict(products), lambda: list(map(encoder.encode, pixels))),
    ]


def _trained(folder: Path) -> Path:
    from aisle.data.prepare import PrepareOptions, prepare
    from aisle.data.sample import write_sample
    from aisle.data.split import Shares
    from aisle.data.validate import validate
    from aisle.training.recipes import light
    from aisle.training.train import train

    write_sample(folder / "raw", rows=540, seed=0)
    validate(folder / "raw", folder / "validated")
    prepared = prepare(folder / "validated", folder / "prepared", options=PrepareOptions(Shares(0.15, 0.2)))
    return train(light(), prepared, folder / "bundle", cache=folder / "cache", threads=2).path


def _catalogue(folder: Path) -> Pair:
    """A catalogue of texts validated and prepared, beside polars reading and sorting its table many times."""
    import polars as pl

    from aisle.data.prepare import prepare
    from aisle.data.raw import IMAGES_ZIP, TRAIN_FILE
    from aisle.data.sample import write_sample
    from aisle.data.validate import validate

    raw = folder / "texts"
    write_sample(raw, rows=ROWS, seed=1)
    (raw / IMAGES_ZIP).unlink()

    def ours() -> None:
        validate(raw, folder / "texts-validated")
        prepare(folder / "texts-validated", folder / "texts-prepared")

    def theirs() -> None:
        for _ in range(100):
            pl.read_csv(raw / TRAIN_FILE).sort("designation")

    return Pair("catalogue", ours, theirs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

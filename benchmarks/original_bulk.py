"""Bulk prediction beside the original project's way: a loop of pandas and Keras, a batch after the other.

Its networks have random weights, which take as long; ours are bundles of the same generated catalogue: `light`, and
`lstm-vgg16` with 8-bit and with 32-bit numbers. Products a second are those beyond the first: two tables of different
length, so that no start counts. Ways take turns.
"""

from __future__ import annotations

import contextlib
import csv
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.measure import ROOT, Figure, Options, Workplace, timed
from benchmarks.rivals.bundles import ROWS as SETTINGS

FEW, MANY, ROUNDS, BATCH = 64, 320, 5, 32
TABLE, IMAGES = "X_train_update.csv", "images.zip"
THEIRS = "pandas_keras"


def run(_: Options) -> list[Figure]:
    with Workplace() as place:
        place.aisle("import", "--source", "sample", "--rows", str(2 * MANY))
        with zipfile.ZipFile(place.raw / IMAGES) as images:
            images.extractall(place.path / "images")
        whole = _whole(place.path / "images")
        tables = {rows: _first(place.raw / TABLE, whole, place.path / f"{rows}.csv", rows) for rows in (FEW, MANY)}
        bundles = {setting: _bundle(place, setting) for setting in SETTINGS}

        def theirs(table: Path) -> float:
            command: list[str | Path] = [
                sys.executable,
                "-m",
                "benchmarks.original_bulk",
                table,
                place.path / "images",
                "out.csv",
            ]
            environment = {**place.environment, "PYTHONPATH": str(ROOT)}
            return timed(command, cwd=place.path, env=environment).seconds

        def ours(bundle: Path) -> Callable[[Path], float]:
            return lambda table: (
                place.aisle("predict", table, "--images", place.raw, "--output", "out.csv", "--model", bundle).seconds
            )

        ways = {THEIRS: theirs, **{setting: ours(bundle) for setting, bundle in bundles.items()}}
        rates = [{name: _rate(way, tables) for name, way in ways.items()} for _ in range(ROUNDS)]
    figures = [Figure.of_rounds(f"{_unit(name)}_per_s", [one[name] for one in rates]) for name in ways]
    return figures + [
        Figure.of_rounds(f"{_unit(name)}_ratio", [one[name] / one[THEIRS] for one in rates]) for name in bundles
    ]


def _unit(name: str) -> str:
    return name.replace("-", "_")


def _rate(way: Callable[[Path], float], tables: Mapping[int, Path]) -> float:
    few, many = (way(tables[rows]) for rows in (FEW, MANY))
    return (MANY - FEW) / (many - few)


def _whole(folder: Path) -> set[str]:
    """The names of the images that can be decoded: at others the original's way ends."""
    from PIL import Image

    found = set()
    for path in folder.rglob("*.jpg"):
        with contextlib.suppress(OSError, ValueError), Image.open(path) as image:
            image.load()
            found.add(path.stem)
    return found


def _first(source: Path, whole: set[str], target: Path, rows: int) -> Path:
    """The first products of `source` with one of these images."""
    with source.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        found = [row for row in reader if f"image_{row['imageid']}_product_{row['productid']}" in whole][:rows]
    with target.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, found[0])
        writer.writeheader()
        writer.writerows(found)
    return target


def _bundle(place: Workplace, setting: str) -> Path:
    out = place.path / setting
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.rivals.bundles", setting, out]
    timed(command, cwd=place.path, env={**place.environment, "PYTHONPATH": str(ROOT)})
    return out


def main(arguments: Sequence[str]) -> None:
    """The original's way: TABLE IMAGES OUT."""
    import pandas as pd  # type: ignore[import-untyped]

    from benchmarks.rivals.servers.original import networks, shares_of

    table, folder, out = map(Path, arguments)
    paths = {path.stem: path for path in folder.rglob("*.jpg")}
    products = pd.read_csv(table)
    text_model, image_model = networks()
    predicted: list[int] = []
    for start in range(0, len(products), BATCH):
        batch = products.iloc[start : start + BATCH]
        names = [
            f"image_{int(image)}_product_{int(product)}"
            for image, product in zip(batch["imageid"], batch["productid"], strict=True)
        ]
        titles = [str(title) for title in batch["designation"]]
        shares = shares_of(titles, [paths[name] for name in names], text_model, image_model)
        predicted += shares.argmax(axis=1).tolist()
    products.assign(predicted=predicted).to_csv(out, index=False)


if __name__ == "__main__":
    main(sys.argv[1:])

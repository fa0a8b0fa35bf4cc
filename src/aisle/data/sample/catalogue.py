"""`write_sample`: the tables and the zip of a generated catalogue."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from aisle.catalog import TYPES_FILE
from aisle.data.raw import (
    IMAGE_FOLDERS,
    IMAGES_ZIP,
    LABELS_FILE,
    RAKUTEN_TYPES,
    TEST_FILE,
    TRAIN_FILE,
    image_stem,
)
from aisle.data.sample.images import image_file
from aisle.data.sample.plan import Row, plan_rows
from aisle.data.sample.texts import description, title
from aisle.errors import UsageError
from aisle.files import atomic_path, write_bytes
from aisle.progress import Progress

FEWEST_ROWS, MOST_ROWS = 54, 100_000
TRAIN_ROWS_PER_TEST_ROW = 9


def write_sample(folder: Path, *, rows: int = 2700, seed: int = 0) -> None:
    """Write a catalogue of `rows` labelled products and a ninth as many unlabelled ones into `folder`.

    Each file is whole or absent, and the images come first: a folder without the tables is unfinished.
    Raises UsageError unless 54 <= rows <= 100,000 (at least two products of each of the 27 types).
    """
    if not FEWEST_ROWS <= rows <= MOST_ROWS:
        raise UsageError(
            f"a sample catalogue has {FEWEST_ROWS:,} to {MOST_ROWS:,} rows, not {rows:,}",
            hint="Choose a number between the two.",
        )
    train = plan_rows(seed, rows, first_number=0, first_key=0)
    test = plan_rows(seed, rows // TRAIN_ROWS_PER_TEST_ROW, first_number=MOST_ROWS, first_key=rows)
    _write_images(folder / IMAGES_ZIP, dict(zip(IMAGE_FOLDERS, (train, test), strict=True)))
    write_bytes(folder / TYPES_FILE, RAKUTEN_TYPES.read_bytes())
    _write_products(folder / TEST_FILE, test)
    _write_products(folder / TRAIN_FILE, train)
    _write_table(folder / LABELS_FILE, ["", "prdtypecode"], ([row.key, row.kind.code] for row in train))


def _write_products(target: Path, rows: Sequence[Row]) -> None:
    header = ["", "designation", "description", "productid", "imageid"]
    _write_table(target, header, ([row.key, title(row), description(row), *row.ids] for row in rows))


def _write_table(target: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _write_images(target: Path, folders: Mapping[str, Sequence[Row]]) -> None:
    with (
        atomic_path(target) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        Progress("drawing images", total=sum(map(len, folders.values())), unit="images") as progress,
    ):
        for folder, rows in folders.items():
            for row in rows:
                if row.damage != "missing":
                    product_id, image_id = map(str, row.ids)
                    name = f"images/{folder}/{image_stem(product_id, image_id)}.jpg"
                    archive.writestr(_zip_entry(name), image_file(row))
                progress.add()


def _zip_entry(name: str) -> zipfile.ZipInfo:
    # Left alone, the date would differ from run to run, and the system and the mode between machines.
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    return entry

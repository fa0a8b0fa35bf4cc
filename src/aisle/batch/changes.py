"""After a promotion: the catalogue is predicted again, and the products whose type would change are listed.

    data/reports/VERSION/changes.csv    one row a product: what it was, what it would be, how sure, and why
    data/reports/VERSION/changes.json   how many, by transition, and the SHA-256 of the CSV

Nothing is taken over by this: the shop does that, when it has looked. The same catalogue and models give the same
bytes. Merchants write titles, and spreadsheets compute what looks like a formula: a cell that begins like one gets
an apostrophe in front, by which a spreadsheet shows it as text.
"""

from __future__ import annotations

import contextlib
import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import polars as pl

from aisle.batch import measured
from aisle.batch.comparison import COLUMNS, Change, ChangesReport, Tally, harmless
from aisle.batch.eyes import Eyes
from aisle.batch.measured import Measuring
from aisle.batch.predicting import BATCHES_AT_ONCE, batched_rows
from aisle.batch.table import ProductRow, product_rows
from aisle.batch.webhook import notify
from aisle.data import raw
from aisle.data.images import Images, map_bounded, open_images
from aisle.data.prepare import ensure_prepared
from aisle.errors import InputError, UsageError
from aisle.files import atomic_path, read_json, remove_abandoned, sha256_bytes, sha256_file, write_json
from aisle.logs import get_logger
from aisle.model.bundle import Bundle
from aisle.model.predictor import Outcome, Predictor
from aisle.progress import Progress
from aisle.registry.bundles import CHAMPION, BundleStore
from aisle.settings import Settings

__all__ = ["ChangesReport", "list_changes", "notify", "versions_to_compare"]

CHANGES_CSV = "changes.csv"
PARTS = {"train": raw.TRAIN_FILE, "test": raw.TEST_FILE}


def versions_to_compare(settings: Settings, *, before: str = "", model: str = CHAMPION) -> tuple[str, str]:
    """The names by which `list_changes` finds two bundles: by default the champion, and the one before it.

    For another model than the champion that is the champion. Raises InputError where there was none.
    """
    store = BundleStore(settings.models_path)
    serving, after = store.serving(), store.find(model)
    if before:
        return before, model
    if serving.champion not in (None, after.name):
        return CHAMPION, model
    if not serving.before:
        raise InputError(
            "there was no champion before this one", where=store.root, hint="--before VERSION names another one."
        )
    return serving.before[-1], model


def list_changes(
    settings: Settings,
    *,
    before: str,
    after: str = CHAMPION,
    data: Path | None = None,
    output: Path | None = None,
    measure: bool = False,
) -> ChangesReport:
    """Predict the raw folder `data` (its train and test part) with two bundles, and write what would change.

    `before` and `after` are versions, names in the store or folders. With `measure` the list says the catalogue's own
    type, too, and the summary how good both are on the test side: `measured.py`. The CSV and, beside it, its
    summary are written whole or not at all. Raises UsageError where both are the same version or the output is none,
    InputError for what is not there, CatalogError for a table that cannot be read.
    """
    store = BundleStore(settings.models_path)
    old_bundle, new_bundle = Bundle.load(store.find(before)), Bundle.load(store.find(after))
    if old_bundle.version == new_bundle.version:
        raise UsageError(
            f"{new_bundle.version} is the version before as well as after",
            hint="--before names another version; `aisle registry list` shows what there is.",
        )
    if output is None:
        output = settings.reports_path / new_bundle.version / CHANGES_CSV
        remove_abandoned(output.parent, now=time.time())
    if output.suffix != ".csv":
        raise UsageError(f"the output is .csv, not {output.suffix or 'without an ending'}", where=output)
    folder = data or settings.data_path / "raw"
    raw.check_raw_folder(folder)
    tables = {part: raw.read_products(folder / name) for part, name in PARTS.items() if (folder / name).is_file()}
    summary = output.with_suffix(".json")
    _check_replaceable(summary)
    prepared = ensure_prepared(folder, settings, threads=settings.cores) if measure else None
    with ExitStack() as stack:
        images = open_images(folder)
        cache = settings.cache_path if images is not None else None
        both = _Both(stack, old_bundle, new_bundle, cache=cache, threads=settings.cores)
        tally = Tally(both.old, both.new)
        measuring = Measuring(prepared, both.old, both.new) if prepared is not None else None
        with atomic_path(output) as temporary:
            with temporary.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                writer.writerow([*COLUMNS, *(measured.COLUMNS if measuring is not None else ())])
                for change in _changes(tables, images, tally, both, measuring):
                    cells = [str(getattr(change, name)) for name in COLUMNS]
                    more = measuring.cells(change.key, change.part) if measuring is not None else ()
                    writer.writerow(map(harmless, [*cells, *more]))
            digest = sha256_file(temporary)
            summary.unlink(missing_ok=True)  # so that no summary ever stands beside the list of another run
    figures = measuring.figures() if measuring is not None else None
    report = tally.report(output, digest, figures)
    write_json(summary, report.as_dict())
    get_logger(__name__).info(
        "changes listed", before=report.before, after=report.after, products=report.products, changes=report.count
    )
    return report


def _check_replaceable(summary: Path) -> None:
    """Raises UsageError for a file that is none of ours."""
    with contextlib.suppress(FileNotFoundError):
        found: object = None
        with contextlib.suppress(ValueError):
            found = read_json(summary)
        if not isinstance(found, dict) or "csv_sha256" not in found:
            raise UsageError(
                "is no summary of changes, and would be replaced", where=summary, hint="Name another --output."
            )


class _Both:
    """The two models, and what they look at images with: the same eyes if they have the same encoder.

    `cache` is None where there are no images.
    """

    def __init__(self, stack: ExitStack, old: Bundle, new: Bundle, *, cache: Path | None, threads: int) -> None:
        self.old, self.new = (stack.enter_context(Predictor(one, threads=threads)) for one in (old, new))
        self._eyes: dict[str, Eyes] = {}  # by the hash of an encoder
        self._encoders: dict[str, str] = {}  # version → that hash
        for bundle in (old, new):
            graph = bundle.encoder_graph()
            if cache is None or graph is None:
                continue
            encoder = self._encoders[bundle.version] = sha256_bytes(graph)
            if encoder not in self._eyes:
                self._eyes[encoder] = stack.enter_context(Eyes(graph, cache, threads=threads))

    def predict(self, rows: Sequence[ProductRow]) -> tuple[Sequence[ProductRow], list[Outcome], list[Outcome]]:
        products = [row.product for row in rows]
        seen = {encoder: eyes.look_at(products) for encoder, eyes in self._eyes.items()}

        def predicted(predictor: Predictor) -> list[Outcome]:
            return predictor.predict(products, seen=seen.get(self._encoders.get(predictor.version, "")))

        return rows, predicted(self.old), predicted(self.new)


def _changes(
    tables: Mapping[str, pl.DataFrame],
    images: Images | None,
    tally: Tally,
    both: _Both,
    measuring: Measuring | None,
) -> Iterator[Change]:
    named = chain.from_iterable(_named(part, table) for part, table in tables.items())
    rows = chain.from_iterable(product_rows(table, images) for table in tables.values())
    with Progress("comparing", total=sum(map(len, tables.values())), unit="products") as progress:
        for batch, old, new in map_bounded(both.predict, batched_rows(rows), threads=BATCHES_AT_ONCE):
            for row, before, after in zip(batch, old, new, strict=True):
                names = next(named)
                change = tally.count(names, row, before, after)
                if measuring is not None:
                    measuring.add(names[0], names[-1], before, after)
                if change is not None:
                    yield change
            progress.add(len(batch))


def _named(part: str, table: pl.DataFrame) -> Iterator[tuple[str, ...]]:
    """What a row says of each product beside what is predicted: key, title, product id, image id, part."""
    columns = table.select(pl.col("key", "title", "product_id", "image_id").fill_null(""))
    for row in columns.iter_rows():
        yield (*row, part)

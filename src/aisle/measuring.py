"""Measuring a bundle on labelled products: a table, one side of a catalogue, or the gate's frozen products.

What only learns a bundle is not needed here.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import polars as pl

from aisle.batch.table import FIELDS, product_rows, read_product_table
from aisle.catalog import Product
from aisle.data import raw
from aisle.data.images import open_given_images
from aisle.data.prepare import Prepared, ensure_prepared
from aisle.data.split import Side
from aisle.data.validate import ContractOptions
from aisle.errors import InputError
from aisle.model.bundle import Bundle
from aisle.model.explain import explain
from aisle.model.predictor import Predictor
from aisle.registry.bundles import BundleStore
from aisle.registry.frozen import frozen_products
from aisle.registry.gate import Verdict, judge
from aisle.settings import Settings
from aisle.training.behaviour import behaviours
from aisle.training.evaluate import LEAST_KNOWN, Evaluation, evaluate
from aisle.training.report import write_evaluation_report

REPORTED_SIDE = 5
"""Parts of a side of the heat maps in a report, which has several."""


def evaluate_file(
    bundle: Bundle,
    file: Path,
    settings: Settings,
    *,
    images: Path | None = None,
    fields: tuple[str, ...] = FIELDS,
    report: Path | None = None,
) -> Evaluation:
    """Measure a bundle on a table with the column `prdtypecode`, and write the report's folder if asked to.

    Types are those of today, as far as the bundle, or a catalogue in whose folder the file lies, knows what became of
    earlier ones. A row whose type fell away is not measured on.
    """
    found = open_given_images(images) if images is not None else None
    table = read_product_table(file, images=found, labelled=True)
    rows = list(product_rows(table, found, fields=fields))
    changes = raw.type_changes(file.parent).then(bundle.changes())
    today = {row: changes.now(code) for row, code in enumerate(table["type_code"]) if code}
    codes = {row: code for row, code in today.items() if code is not None}
    labelled = list(codes)
    if not labelled:
        raise InputError("has no row with a type" + " of today" * bool(today), where=file)
    unread = Counter(error.reason for row in labelled if (error := rows[row].image_error))
    if unread.total() == len(labelled):
        raise InputError("has an image for none of its rows", where=file, hint=f"Is --images {images} the right one?")
    keys = table["key"].fill_null("").to_list() if "key" in table.columns else [str(row) for row in range(len(rows))]
    with Predictor(bundle, threads=settings.cores) as predictor:
        evaluation = evaluate(
            predictor,
            [keys[row] for row in labelled],
            [rows[row].product for row in labelled],
            list(codes.values()),
            changes=changes,
        )
        evaluation.figures["images_not_read"] = dict(unread)
        evaluation.figures["unlabelled"] = len(rows) - len(today)
        if len(today) > len(codes):
            evaluation.figures["retired"] = len(today) - len(codes)
        _report(report, evaluation, predictor)
    return evaluation


def evaluate_side(
    bundle: Bundle,
    prepared: Prepared,
    settings: Settings,
    *,
    side: Side = Side.TEST,
    fields: tuple[str, ...] = FIELDS,
    report: Path | None = None,
) -> Evaluation:
    """Measure a bundle on one side of a prepared catalogue, by the ordinary way in and in the catalogue's types.

    Raises InputError for a side without products.
    """
    table = prepared.products().filter(side=side.value)
    if not len(table):
        raise InputError(f"has no product on its {side.value} side", where=prepared.folder)
    products = [
        Product(
            one.title if "title" in fields else "",
            one.description if "description" in fields else "",
            one.image if "image" in fields else None,
        )
        for one in _products(prepared, table)
    ]
    with Predictor(bundle, threads=settings.cores) as predictor:
        evaluation = evaluate(
            predictor,
            table["key"].to_list(),
            products,
            table["type_code"].to_list(),
            changes=prepared.changes(),
            types=prepared.types(),
        )
        _report(report, evaluation, predictor)
    return evaluation


def _report(folder: Path | None, evaluation: Evaluation, predictor: Predictor) -> None:
    """With why the model was wrong, where somebody wants a report."""
    if folder is not None:
        write_evaluation_report(folder, evaluation, explain=partial(explain, predictor, side=REPORTED_SIDE))


def judge_challenger(
    challenger: Bundle, data: Path, settings: Settings, *, contract: ContractOptions = ContractOptions()
) -> Verdict:
    """Measure a bundle, and the champion beside it, on the frozen products of a raw or prepared folder.

    Both are measured in the types of today: what became of earlier ones, the folder says, and the bundle.
    """
    store = BundleStore(settings.models_path)
    threads = settings.cores
    prepared = ensure_prepared(data, settings, contract=contract, threads=threads)
    changes = prepared.changes().then(challenger.changes())
    table = frozen_products(store.root, prepared, changes=changes)
    today = [changes.now(code) for code in table["type_code"]]
    table = table.with_columns(type_code=pl.Series(today, dtype=pl.String)).drop_nulls("type_code")
    products = _products(prepared, table)

    def measured(predictor: Predictor, least_known: float = LEAST_KNOWN) -> Evaluation:
        keys, codes = table["key"].to_list(), table["type_code"].to_list()
        return evaluate(predictor, keys, products, codes, changes=changes, least_known=least_known)

    champion = store.serving().champion
    with Predictor(challenger, threads=threads) as predictor:
        evaluation, behaviour = measured(predictor), behaviours(predictor, products)
    if champion is None or champion == challenger.version:
        return judge(evaluation, None, behaviour)
    with Predictor(Bundle.load(store.root / champion), threads=threads) as predictor:
        return judge(evaluation, measured(predictor, least_known=0), behaviour)


def _products(prepared: Prepared, table: pl.DataFrame) -> list[Product]:
    images = prepared.images()
    return [
        Product(title, description, images.read(stem) if images is not None and stem else None)
        for title, description, stem in table.select("title", "description", "image").iter_rows()
    ]

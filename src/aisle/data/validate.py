"""The data contract: which rows of a raw catalogue may be learnt from, and why the others may not.

Each rule is a reason and a condition. A row that breaks one goes to `quarantine.csv` with all its reasons; the
rest goes to `products.parquet`, with what is known of each image, so that no later step opens an image to find
out whether it can. The run stops when too many rows are bad or a type has no row left.

Labels of earlier types become those of today (`product_type_changes.csv`). A row whose type fell away breaks no rule
and cannot be learnt from: it goes to `retired.parquet`, so that the others keep their groups and sides.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from aisle import data, inputs
from aisle.catalog import CHANGES_FILE, TYPES_FILE, ProductTypes, TypeChanges
from aisle.data import raw
from aisle.data.archive import check_archive
from aisle.data.images import Images, map_bounded, open_images
from aisle.errors import CatalogError, ImageError
from aisle.files import atomic_folder, check_replaceable, read_json, sha256_json, sources_hash, write_json, write_text
from aisle.inputs.image import ImageFacts, inspect
from aisle.logs import get_logger
from aisle.progress import track

PRODUCTS_FILE = "products.parquet"
RETIRED_FILE = "retired.parquet"
QUARANTINE_FILE = "quarantine.csv"
STATE_FILE = "validated.json"

MAX_TITLE = 2_000
MAX_DESCRIPTION = 50_000

LABELLED = ("key", "title", "description", "product_id", "image_id", "type_code", "weight")
"""The columns of a row to learn from, as it came."""
IMAGE_SCHEMA = {
    "image_sha256": pl.String,
    "image_format": pl.String,
    "image_width": pl.Int32,
    "image_height": pl.Int32,
    "image_fingerprint": pl.String,
    "image_problem": pl.String,
}


@dataclass(frozen=True, slots=True)
class ContractOptions:
    """`max_bad`: the largest share of quarantined rows; `allow_missing_types`: go on though a type has no row."""

    max_bad: float = 0.01
    allow_missing_types: bool = False


@dataclass(frozen=True, slots=True)
class Validated:
    """Where the accepted rows are, and how many there are.

    `retired` rows are of types that fell away. `type_changes` has for each earlier type what it `becomes`, None for
    nothing, and how many `rows` were labelled with it.
    """

    folder: Path
    rows: int
    accepted: int
    quarantined: int
    reasons: dict[str, int]
    missing_types: list[str]
    retired: int
    type_changes: dict[str, dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder)}


Counted = Callable[[Validated], object]
"""Who wants to know how many rows there are, even where there are too many bad ones to go on."""


def validate(
    raw_folder: Path,
    out: Path,
    *,
    options: ContractOptions = ContractOptions(),
    threads: int = 2,
    counted: Counted | None = None,
) -> Validated:
    """Check the catalogue in `raw_folder` and write `out`, whole or not at all.

    Raises CatalogError when a file cannot be read, when more than `max_bad` of the rows break the contract, or
    when a type of the table has no row left. In the last two cases the quarantine table and the report are
    written all the same, to `out` with `.refused` behind its name, so that one can see which rows they are.
    """
    raw.check_raw_folder(raw_folder)
    check_replaceable(out, marker=STATE_FILE)
    if (raw_folder / raw.IMAGES_ZIP).is_file():
        check_archive(raw_folder / raw.IMAGES_ZIP)
    state = fingerprint(raw_folder)
    table = read_labelled(raw_folder)
    types, changes = choose_types(raw_folder, table), raw.type_changes(raw_folder)
    images = open_images(raw_folder)
    table = table.hstack(image_facts(table, images, threads=threads))
    by_type = dict(table["type_code"].value_counts().iter_rows())
    table = as_of_today(table, changes)
    table = table.with_columns(reasons=broken_rules(types, with_images=images is not None))
    is_retired, is_bad = pl.col("is_retired"), pl.col("reasons") != ""
    accepted = table.filter(~is_retired & ~is_bad).drop("reasons", "image_problem", "is_retired")
    retired = table.filter(is_retired & ~is_bad).drop("reasons", "image_problem", "is_retired")
    quarantine = table.filter(~is_retired & is_bad).drop("is_retired")

    result = Validated(
        folder=out,
        rows=len(table),
        accepted=len(accepted),
        quarantined=len(quarantine),
        reasons=_count_reasons(quarantine),
        missing_types=sorted(set(types) - set(accepted["type_code"].to_list())),
        retired=int(table["is_retired"].sum()),
        type_changes={code: {"becomes": now, "rows": by_type.get(code, 0)} for code, now in changes.items()},
    )
    if counted is not None:
        counted(result)
    problem = _refusal(result, options)
    refused = out.with_name(out.name + ".refused")
    check_replaceable(refused, marker=QUARANTINE_FILE)
    target = out if problem is None else refused
    with atomic_folder(target) as folder:
        write_text(folder / TYPES_FILE, types.to_csv())
        if changes:
            write_text(folder / CHANGES_FILE, changes.to_csv())
            raw.write_table(retired, folder / RETIRED_FILE)
        raw.write_table(accepted, folder / PRODUCTS_FILE)
        raw.write_table(quarantine, folder / QUARANTINE_FILE)
        _write_report(folder, result, accepted, types)
        images_at = os.path.relpath(raw_folder.resolve(), out.resolve()) if images is not None else None
        if problem is None:  # without it no later step takes the folder
            write_json(folder / STATE_FILE, {"raw": state, "images": images_at, "result": result.as_dict()})
    if problem is not None:
        raise CatalogError(problem, where=raw_folder, hint=f"The rows and reasons are in {target}/{QUARANTINE_FILE}.")
    shutil.rmtree(refused, ignore_errors=True)
    get_logger(__name__).info("catalogue validated", **result.as_dict())
    return result


def ensure_validated(
    raw_folder: Path,
    out: Path,
    *,
    options: ContractOptions = ContractOptions(),
    threads: int = 2,
    counted: Counted | None = None,
) -> Validated:
    """`validate`, unless `out` already holds the result for these very files.

    Whoever accepted that result, with whatever options, accepted it.
    """
    raw.check_raw_folder(raw_folder)
    try:
        state = read_json(out / STATE_FILE)
        if state["raw"] == fingerprint(raw_folder):
            known = Validated(**{**state["result"], "folder": out})
            if counted is not None:
                counted(known)
            return known
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return validate(raw_folder, out, options=options, threads=threads, counted=counted)


def fingerprint(raw_folder: Path) -> str:
    """A hash of the names, sizes and times of the catalogue's files, and of the code that looks at them."""
    known = [*raw.REQUIRED_FILES, *raw.OPTIONAL_FILES, raw.IMAGES_ZIP]
    paths = [*(raw_folder / name for name in known), *raw.checked_tables(raw_folder)]
    for name in raw.IMAGE_FOLDERS:
        paths += sorted((raw_folder / name).rglob("*"))
    stats = [
        (str(path.relative_to(raw_folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in paths
        if path.is_file()
    ]
    return sha256_json([sources_hash(inputs), sources_hash(data), str(raw_folder.resolve()), stats])


def read_labelled(raw_folder: Path) -> pl.DataFrame:
    """The training rows with their type and weight, one row each, all text: `LABELLED`."""
    return pl.concat([_read_main(raw_folder), *map(_read_checked, raw.checked_tables(raw_folder))])


def _read_main(raw_folder: Path) -> pl.DataFrame:
    products = raw.read_products(raw_folder / raw.TRAIN_FILE)
    labels = raw.read_products(raw_folder / raw.LABELS_FILE, required=("key", "type_code"))
    table = _join_by_key(products, labels, "type_code", raw_folder / raw.LABELS_FILE)
    agreement = raw_folder / raw.AGREEMENT_FILE
    if agreement.is_file():
        weights = raw.read_products(agreement, required=("key", "weight"))
        table = _join_by_key(table, weights, "weight", agreement)
    else:
        table = table.with_columns(weight=pl.lit("1"))
    return _in_columns(table)


def _read_checked(path: Path) -> pl.DataFrame:
    """The rows of a table with labels of its own, under keys that sort behind the catalogue's: it keeps its sides."""
    table = raw.read_products(path, required=("key", "title", "type_code"))
    key = pl.format("|{}:{}", pl.lit(path.stem), pl.col("key"))
    product_id = "product_id" if "product_id" in table.columns else "key"
    return _in_columns(table.with_columns(key=key, product_id=pl.col(product_id), weight=pl.lit("1")))


def _in_columns(table: pl.DataFrame) -> pl.DataFrame:
    missing = {name: pl.lit(None, pl.String) for name in LABELLED if name not in table.columns}
    return table.with_columns(**missing).select(pl.col(LABELLED).cast(pl.String))


def choose_types(raw_folder: Path, table: pl.DataFrame) -> ProductTypes:
    """The catalogue's own table of types; Rakuten's for what is plainly Rakuten's; else the codes themselves.

    Plainly: most of Rakuten's codes are there, and most of the codes that are there are Rakuten's. Another shop
    may well have a type 10 too. Raises CatalogError where what became of earlier types does not fit the table.
    """
    changes = raw.type_changes(raw_folder)
    types = raw.product_types(raw_folder)
    if types is None:
        types = _implied_types(set(table["type_code"].drop_nulls().to_list()), changes)
    changes.check(types, where=raw_folder / CHANGES_FILE)
    return types


def _implied_types(codes: set[str], changes: TypeChanges) -> ProductTypes:
    rakuten = ProductTypes.from_csv(raw.RAKUTEN_TYPES)
    common = len(codes & set(rakuten))
    if 2 * common > len(rakuten) and 2 * common > len(codes):
        return ProductTypes(one for code, one in rakuten.items() if code not in changes)
    return ProductTypes.from_codes(now for code in codes if (now := changes.now(code)) is not None)


def as_of_today(table: pl.DataFrame, changes: TypeChanges) -> pl.DataFrame:
    """The rows with `type_code` as it is today, and `is_retired`: the type fell away, and the code is the old one."""
    fell_away = [code for code, now in changes.items() if now is None]
    renamed = {code: now for code, now in changes.items() if now is not None}
    code = pl.col("type_code")
    return table.with_columns(
        type_code=code.replace(renamed) if renamed else code,
        is_retired=code.is_in(fell_away).fill_null(False),
    )


def image_facts(table: pl.DataFrame, images: Images | None, *, threads: int) -> pl.DataFrame:
    """The facts of each row's image, in the order of `table`; null for a row that names no image."""
    if images is None:
        return pl.DataFrame({name: pl.Series([None] * len(table), dtype=kind) for name, kind in IMAGE_SCHEMA.items()})
    stems = raw.image_stems(table)
    look = partial(_look_at, images)
    rows = track(map_bounded(look, stems, threads=threads), "checking images", total=len(table), unit="images")
    return pl.DataFrame(list(rows), schema=IMAGE_SCHEMA, orient="row")


def broken_rules(types: ProductTypes, *, with_images: bool) -> pl.Expr:
    """An expression: the reasons for which a row is bad, joined by `; `, empty for a good row."""
    rules = [pl.when(broken).then(pl.lit(reason)) for reason, broken in _rules(types)]
    if with_images:
        rules.append(pl.when(pl.col("image_problem").is_not_null()).then(pl.format("image_{}", "image_problem")))
    return pl.concat_str(rules, separator="; ", ignore_nulls=True)


def _rules(types: ProductTypes) -> Iterator[tuple[str, pl.Expr]]:
    def empty(name: str) -> pl.Expr:
        return pl.col(name).str.strip_chars().fill_null("") == ""

    known = pl.col("is_retired") | pl.col("type_code").is_in(list(types))
    weight = pl.col("weight").cast(pl.Float64, strict=False)
    yield "key_missing", empty("key")
    yield "key_duplicate", ~empty("key") & ~pl.col("key").is_first_distinct()
    yield "product_id_missing", empty("product_id")
    yield "label_missing", empty("type_code")
    yield "label_unknown", ~empty("type_code") & ~known
    yield "weight_out_of_range", ~weight.is_between(0, 1, closed="right").fill_null(False)
    yield "title_too_long", pl.col("title").str.len_chars().fill_null(0) > MAX_TITLE
    yield "description_too_long", pl.col("description").str.len_chars().fill_null(0) > MAX_DESCRIPTION
    yield "nothing_to_learn_from", empty("title") & empty("description") & pl.col("image_sha256").is_null()


def _join_by_key(left: pl.DataFrame, right: pl.DataFrame, column: str, where: Path) -> pl.DataFrame:
    twice = right.filter(pl.col("key").is_duplicated())
    if len(twice):
        first = twice["key"][0]
        times = int(right["key"].eq_missing(first).sum())
        raise CatalogError(
            f"{f'key {first}' if first else 'an empty key'} stands {times} times",
            where=where,
            hint="Keep one of its rows.",
        )
    unused = len(right.join(left, on="key", how="anti"))
    if unused:
        get_logger(__name__).warning("rows for no product are not used", file=str(where), rows=unused)
    return left.drop(column, strict=False).join(
        right.select("key", column), on="key", how="left", maintain_order="left"
    )


def _look_at(images: Images, stem: str | None) -> tuple[str | int | None, ...]:
    if stem is None:
        return (None,) * len(IMAGE_SCHEMA)
    try:
        facts: ImageFacts = inspect(images.read(stem))
    except ImageError as error:
        return (None, None, None, None, None, error.reason)
    return (facts.sha256, facts.format, facts.width, facts.height, facts.fingerprint, None)


def _count_reasons(quarantine: pl.DataFrame) -> dict[str, int]:
    counts = quarantine["reasons"].str.split("; ").explode().value_counts()
    return dict(sorted(counts.iter_rows(), key=lambda row: (-row[1], row[0])))


def _refusal(result: Validated, options: ContractOptions) -> str | None:
    if not result.rows:
        return "has no rows"
    rows = result.rows - result.retired
    if not rows:
        return "has only rows of types that fell away"
    if result.quarantined > options.max_bad * rows:
        worst = ", ".join(f"{count} {reason}" for reason, count in list(result.reasons.items())[:3])
        return (
            f"{result.quarantined} of {rows} rows break the data contract ({worst}), "
            f"more than {options.max_bad:.1%}; --max-bad sets another limit"
        )
    if result.missing_types and not options.allow_missing_types:
        return f"no valid row of type {', '.join(result.missing_types)}; --allow-missing-types goes on without"
    return None


def _write_report(folder: Path, result: Validated, accepted: pl.DataFrame, types: ProductTypes) -> None:
    from aisle.data.report import write_data_report  # noqa: PLC0415  plots are slow to import

    write_data_report(folder, result.as_dict(), accepted, types)

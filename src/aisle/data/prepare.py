"""From accepted rows to what a recipe trains on: clean texts, sides, and the catalogue's fingerprint.

`products.parquet` holds one row a product: `key`, `title` and `description` (clean), `image` (the image's name
without ending, null without one), `image_sha256`, `type_code`, `weight`, `side`, `group`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from aisle.catalog import CHANGES_FILE, TYPES_FILE, ProductTypes, TypeChanges, numbers_first
from aisle.data import raw, validate
from aisle.data.images import Images, open_images
from aisle.data.split import Membership, Shares, Side, split
from aisle.errors import CheckFailed, InputError
from aisle.files import atomic_folder, check_replaceable, read_json, sha256_json, write_json, write_text
from aisle.inputs.text import clean, title_key
from aisle.logs import get_logger
from aisle.settings import Settings

PRODUCTS_FILE = "products.parquet"
STATE_FILE = "prepared.json"
TOLERATED_SHIFT = 0.5
"""A type's share on a side may differ from its share overall by this factor before the split is reported."""


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    shares: Shares = Shares()
    salt: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared folder. `data_hash` is equal for equal products, whatever file they came from.

    `images_path` leads from this folder to the raw one, where the images stay; None for a catalogue without.
    `contract` has what became of the raw rows; {} in a folder of an older aisle.
    """

    folder: Path
    data_hash: str
    images_path: str | None
    counts: dict[str, int]
    uneven_types: dict[str, str]
    contract: dict[str, Any] = field(default_factory=dict)

    def products(self) -> pl.DataFrame:
        return pl.read_parquet(self.folder / PRODUCTS_FILE)

    def image_count(self) -> int:
        """How many products have an image."""
        return int(pl.scan_parquet(self.folder / PRODUCTS_FILE).select(pl.col("image").count()).collect().item())

    def types(self) -> ProductTypes:
        return ProductTypes.from_csv(self.folder / TYPES_FILE)

    def changes(self) -> TypeChanges:
        """What became of earlier types."""
        return raw.type_changes(self.folder)

    def images(self) -> Images | None:
        """The catalogue's images, in its raw folder. Raises InputError when that is gone."""
        return open_images(self.folder / self.images_path) if self.images_path else None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder)}

    @classmethod
    def open(cls, folder: Path) -> Prepared:
        try:
            return cls(**{**read_json(folder / STATE_FILE)["result"], "folder": folder})
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError("is not a prepared folder", where=folder, hint="Run `aisle prepare` first.") from None


def prepare(validated_folder: Path, out: Path, *, options: PrepareOptions = PrepareOptions()) -> Prepared:
    """Clean and split the accepted rows of `validated_folder` and write `out`, whole or not at all."""
    state = _read_validated(validated_folder)
    check_replaceable(out, marker=STATE_FILE)
    accepted = pl.read_parquet(validated_folder / validate.PRODUCTS_FILE)
    table = _clean(pl.concat([accepted, *_retired(validated_folder)]))
    memberships = _memberships(table, options)
    table = table.with_columns(
        side=pl.Series([one.side for one in memberships], dtype=pl.String),
        group=pl.Series([one.group for one in memberships], dtype=pl.String),
    ).drop("image_fingerprint")
    table = table.head(len(accepted))  # the others were there so that these keep their sides
    types, changes = ProductTypes.from_csv(validated_folder / TYPES_FILE), raw.type_changes(validated_folder)
    result = Prepared(
        folder=out,
        data_hash=_data_hash(table, types, changes),
        images_path=_images_path(state, validated_folder, out),
        counts={side.value: int((table["side"] == side).sum()) for side in Side},
        uneven_types=_uneven_types(table),
        contract={name: state["result"][name] for name in ("rows", "quarantined", "reasons", "retired")},
    )
    _check_sides(result)
    with atomic_folder(out) as folder:
        raw.write_table(table, folder / PRODUCTS_FILE)
        write_text(folder / TYPES_FILE, types.to_csv())
        if changes:
            write_text(folder / CHANGES_FILE, changes.to_csv())
        write_json(folder / STATE_FILE, {"inputs": _inputs(state, options), "result": result.as_dict()})
    get_logger(__name__).info("catalogue prepared", **result.as_dict())
    return result


def ensure_prepared(
    data: Path,
    settings: Settings,
    *,
    contract: validate.ContractOptions = validate.ContractOptions(),
    options: PrepareOptions = PrepareOptions(),
    threads: int = 2,
) -> Prepared:
    """The prepared form of `data`, a raw or a prepared folder; what is not validated and prepared yet, is now."""
    if is_prepared(data):
        return Prepared.open(data)
    validated = validated_beside(data, settings, contract=contract, threads=threads)
    out = validated.folder.with_name("preprocessed")
    try:
        if read_json(out / STATE_FILE)["inputs"] == _inputs(_read_validated(validated.folder), options):
            return Prepared.open(out)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return prepare(validated.folder, out, options=options)


def is_prepared(data: Path) -> bool:
    """Whether a folder is a prepared one, and not raw."""
    return (data / STATE_FILE).is_file()


def validated_beside(
    data: Path,
    settings: Settings,
    *,
    contract: validate.ContractOptions = validate.ContractOptions(),
    threads: int = 2,
    counted: validate.Counted | None = None,
) -> validate.Validated:
    """The validated form of `data`, a raw folder, where `ensure_prepared` looks for it; what is not there is made."""
    raw.check_raw_folder(data)
    out = _working_folder(data, settings) / "validated"
    return validate.ensure_validated(data, out, options=contract, threads=threads, counted=counted)


def _working_folder(raw_folder: Path, settings: Settings) -> Path:
    """Beside the raw data where it is our own; in the cache for a catalogue that lies elsewhere."""
    if raw_folder.resolve() == (settings.data_path / "raw").resolve():
        return settings.data_path
    name = f"{raw_folder.resolve().name}-{sha256_json(str(raw_folder.resolve()))[:8]}"
    return settings.cache_path / "catalogs" / name


def _images_path(state: dict[str, Any], validated_folder: Path, out: Path) -> str | None:
    if state["images"] is None:
        return None
    return os.path.relpath((validated_folder / state["images"]).resolve(), out.resolve())


def _read_validated(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = read_json(folder / validate.STATE_FILE)
    except (OSError, ValueError):
        raise InputError("is not a validated folder", where=folder, hint="Run `aisle validate` first.") from None
    return state


def _retired(validated_folder: Path) -> list[pl.DataFrame]:
    path = validated_folder / validate.RETIRED_FILE
    return [pl.read_parquet(path)] if path.is_file() else []


def _inputs(state: dict[str, Any], options: PrepareOptions) -> str:
    return sha256_json([state["raw"], asdict(options)])


def _clean(accepted: pl.DataFrame) -> pl.DataFrame:
    return accepted.select(
        "key",
        title=pl.Series(map(clean, accepted["title"]), dtype=pl.String),
        description=pl.Series(map(clean, accepted["description"]), dtype=pl.String),
        image=pl.when(pl.col("image_sha256").is_not_null()).then(
            pl.Series(raw.image_stems(accepted), dtype=pl.String)
        ),
        image_sha256="image_sha256",
        image_fingerprint="image_fingerprint",
        type_code="type_code",
        weight=pl.col("weight").cast(pl.Float64),
    )


def _memberships(table: pl.DataFrame, options: PrepareOptions) -> list[Membership]:
    """By rising key, so that a catalogue sorted another way, or with its new rows on top, keeps its sides."""
    keys, identities = table["key"].to_list(), list(_identities(table))
    order = sorted(range(len(keys)), key=lambda row: numbers_first(keys[row]))
    found = split([identities[row] for row in order], options.shares, options.salt)
    by_row = dict(zip(order, found, strict=True))
    return [by_row[row] for row in range(len(keys))]


def _identities(table: pl.DataFrame) -> Iterator[list[str]]:
    columns = ("key", "title", "image_sha256", "image_fingerprint")
    for key, title, sha256, fingerprint in table.select(columns).iter_rows():
        words = title_key(title)
        yield [
            *([f"title:{words}"] if words else []),
            *([f"image:{fingerprint}"] if fingerprint else []),
            *([f"file:{sha256}"] if sha256 else []),
        ] or [f"key:{key}"]


def _data_hash(table: pl.DataFrame, types: ProductTypes, changes: TypeChanges) -> str:
    """Taken row by row, so that a large catalogue is never one long string."""
    digest = hashlib.sha256(types.to_csv().encode())
    if changes:
        digest.update(changes.to_csv().encode())
    for row in table.iter_rows():
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _uneven_types(table: pl.DataFrame) -> dict[str, str]:
    """Types whose share on a held-out side is far from their share overall, for people to know: not forced."""
    overall = table["type_code"].value_counts(normalize=True, name="share")
    found: dict[str, str] = {}
    for side in (Side.VALIDATION, Side.TEST):
        rows = table.filter(pl.col("side") == side)
        here = rows["type_code"].value_counts(name="count")
        for code, share, count in (
            overall.join(here, on="type_code", how="left").fill_null(0).sort("type_code").iter_rows()
        ):
            expected = share * len(rows)
            # Three standard deviations of a Poisson count beside the factor: small types vary by themselves.
            if abs(count - expected) > max(TOLERATED_SHIFT * expected, 3 * expected**0.5):
                found[f"{side}:{code}"] = f"{count} rows, {expected:.1f} expected"
    return found


def _check_sides(result: Prepared) -> None:
    empty = [side for side in (Side.TRAIN, Side.VALIDATION) if not result.counts[side]]
    if empty:
        raise CheckFailed(
            f"the {' and '.join(empty)} side has no product", hint="The catalogue is too small to learn from."
        )

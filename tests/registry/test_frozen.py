"""The frozen products are the same ones for as long as nothing of them changed but what their types are called."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from aisle.catalog import TYPES_FILE, TypeChanges
from aisle.data.prepare import PRODUCTS_FILE, STATE_FILE, Prepared
from aisle.errors import InputError
from aisle.files import read_json, write_json
from aisle.registry.frozen import FROZEN_FILE, frozen_products


@pytest.fixture
def frozen(tmp_path: Path, prepared: Prepared) -> pl.DataFrame:
    return frozen_products(tmp_path / "models", prepared)


def changed(prepared: Prepared, folder: Path, *columns: pl.Expr, keep: pl.Expr | None = None) -> Prepared:
    """The same catalogue, with other values in some columns, and without some rows."""
    folder.mkdir()
    table = prepared.products().with_columns(*columns)
    (table if keep is None else table.filter(keep)).write_parquet(folder / PRODUCTS_FILE)
    for name in (STATE_FILE, TYPES_FILE):
        (folder / name).write_bytes((prepared.folder / name).read_bytes())
    return replace(prepared, folder=folder)


def relabelled(old: str, new: str) -> pl.Expr:
    return pl.col("type_code").replace({old: new})


def test_a_product_is_the_same_under_the_new_code_of_its_type(
    tmp_path: Path, prepared: Prepared, frozen: pl.DataFrame
) -> None:
    code = frozen["type_code"][0]
    today = changed(prepared, tmp_path / "today", relabelled(code, "new"))
    rows = frozen_products(tmp_path / "models", today, changes=TypeChanges({code: "meanwhile", "meanwhile": "new"}))
    assert rows.drop("type_code").equals(frozen.drop("type_code"))
    assert "new" in rows["type_code"].to_list()


def test_another_label_that_no_change_of_types_explains_is_another_product(
    tmp_path: Path, prepared: Prepared, frozen: pl.DataFrame
) -> None:
    code, other = frozen["type_code"].unique().to_list()[:2]
    today = changed(prepared, tmp_path / "today", relabelled(code, other))
    for changes in (TypeChanges(), TypeChanges({"another": other}), TypeChanges({code: "something else"})):
        with pytest.raises(InputError, match=r"gone or changed in this catalogue \(first: "):
            frozen_products(tmp_path / "models", today, changes=changes)


def test_a_product_may_have_been_put_into_a_type_that_there_was_not_then(
    tmp_path: Path, prepared: Prepared, frozen: pl.DataFrame
) -> None:
    code = frozen["type_code"][0]
    today = changed(prepared, tmp_path / "today", relabelled(code, "added"))
    rows = frozen_products(tmp_path / "models", today)
    assert rows.drop("type_code").equals(frozen.drop("type_code"))
    assert "added" in rows["type_code"].to_list()


def test_what_another_type_became_is_no_added_type(tmp_path: Path, prepared: Prepared, frozen: pl.DataFrame) -> None:
    code, other = frozen["type_code"].unique().to_list()[:2]
    today = changed(prepared, tmp_path / "today", pl.col("type_code").replace({code: "new", other: "new"}))
    with pytest.raises(InputError, match="gone or changed"):
        frozen_products(tmp_path / "models", today, changes=TypeChanges({other: "new"}))
    assert len(frozen_products(tmp_path / "models", today, changes=TypeChanges({other: "new", code: "new"})))


def test_products_whose_type_fell_away_are_left_out(tmp_path: Path, prepared: Prepared, frozen: pl.DataFrame) -> None:
    code = frozen["type_code"][0]
    today = changed(prepared, tmp_path / "today", keep=pl.col("type_code") != code)
    with pytest.raises(InputError, match="gone or changed"):
        frozen_products(tmp_path / "models", today)
    rows = frozen_products(tmp_path / "models", today, changes=TypeChanges({code: None}))
    assert rows.equals(frozen.filter(pl.col("type_code") != code))


def test_a_product_whose_type_fell_away_may_have_been_given_another(
    tmp_path: Path, prepared: Prepared, frozen: pl.DataFrame
) -> None:
    code, other = frozen["type_code"].unique().to_list()[:2]
    today = changed(prepared, tmp_path / "today", relabelled(code, other))
    assert len(frozen_products(tmp_path / "models", today, changes=TypeChanges({code: None}))) == len(frozen)


def test_another_title_is_another_product_whatever_became_of_its_type(
    tmp_path: Path, prepared: Prepared, frozen: pl.DataFrame
) -> None:
    code = frozen["type_code"][0]
    today = changed(prepared, tmp_path / "today", relabelled(code, "new"), pl.col("title") + " neuf")
    for changes in (TypeChanges({code: "new"}), TypeChanges({code: None})):
        with pytest.raises(InputError, match="gone or changed"):
            frozen_products(tmp_path / "models", today, changes=changes)


def test_when_all_their_types_fell_away_somebody_has_to_choose_anew(
    tmp_path: Path, prepared: Prepared, frozen: pl.DataFrame
) -> None:
    codes = frozen["type_code"].unique().to_list()
    today = changed(prepared, tmp_path / "today", keep=pl.col("side") != "test")
    with pytest.raises(InputError, match="the types of all frozen products fell away"):
        frozen_products(tmp_path / "models", today, changes=TypeChanges(dict.fromkeys(codes)))


def test_a_list_of_before_types_could_change_is_taken_over(
    tmp_path: Path, prepared: Prepared, frozen: pl.DataFrame
) -> None:
    path = tmp_path / "models" / FROZEN_FILE
    new = read_json(path)
    digest = hashlib.sha256()
    for row in frozen.select("key", "type_code", "title", "description", "image").iter_rows():
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    write_json(path, {"keys": frozen["key"].to_list(), "sha256": "0" * 64})
    with pytest.raises(InputError, match="gone or changed"):
        frozen_products(tmp_path / "models", prepared)
    write_json(path, {"keys": frozen["key"].to_list(), "sha256": digest.hexdigest()})
    assert frozen_products(tmp_path / "models", prepared).equals(frozen)
    assert read_json(path) == new

"""From accepted rows to what a recipe trains on."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from aisle.data.prepare import Prepared, PrepareOptions, ensure_prepared, prepare
from aisle.data.split import Shares, Side
from aisle.data.validate import ensure_validated, validate
from aisle.errors import CheckFailed, InputError
from aisle.inputs.text import clean
from aisle.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_path=tmp_path / "data", cache_path=tmp_path / "cache")


def test_every_accepted_row_is_there_once_in_the_catalogues_order(prepared: Prepared) -> None:
    accepted = pl.read_parquet(prepared.folder.parent / "validated" / "products.parquet")
    assert len(accepted) > 400
    assert prepared.products()["key"].to_list() == accepted["key"].to_list()


def test_texts_are_clean(prepared: Prepared) -> None:
    table = prepared.products()
    for column in ("title", "description"):
        assert table[column].null_count() == 0
        assert all(clean(text) == text for text in table[column])
    assert not table["description"].str.contains("&eacute;|<br|<p>").any()


def test_no_group_is_on_two_sides(prepared: Prepared) -> None:
    table = prepared.products().filter(pl.col("side") != Side.BRIDGE)
    assert (table.group_by("group").agg(pl.col("side").n_unique())["side"] == 1).all()
    duplicated = table.group_by("image_sha256").agg(pl.col("side").n_unique(), pl.len())
    assert duplicated.filter(pl.col("len") > 1).height > 0
    assert (duplicated["side"] == 1).all()


def test_equal_products_have_an_equal_hash_wherever_they_lie(
    sample: Path, settings: Settings, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(sample, tmp_path / "elsewhere"))
    hashes = {ensure_prepared(folder, settings).data_hash for folder in (sample, moved)}
    assert len(hashes) == 1


def test_a_changed_title_changes_the_hash(
    sample: Path, prepared: Prepared, settings: Settings, tmp_path: Path
) -> None:
    changed = Path(shutil.copytree(sample, tmp_path / "changed"))
    table = changed / "X_train_update.csv"
    table.write_text(table.read_text().replace("\n5,", "\n5,nouveau "))
    assert ensure_prepared(changed, settings).data_hash != prepared.data_hash


def test_what_is_prepared_is_not_prepared_again_until_it_changes(
    sample: Path, settings: Settings, tmp_path: Path
) -> None:
    raw = Path(shutil.copytree(sample, settings.data_path / "raw"))
    first = ensure_prepared(raw, settings)
    stamp = (first.folder / "products.parquet").stat().st_mtime_ns
    ensure_prepared(raw, settings)
    assert (first.folder / "products.parquet").stat().st_mtime_ns == stamp
    table = raw / "X_train_update.csv"
    table.write_text(table.read_text().replace("\n5,", "\n5,nouveau "))
    ensure_prepared(raw, settings)
    assert (first.folder / "products.parquet").stat().st_mtime_ns != stamp


def test_our_own_raw_folder_is_prepared_beside_it(sample: Path, settings: Settings) -> None:
    raw = Path(shutil.copytree(sample, settings.data_path / "raw"))
    assert ensure_prepared(raw, settings).folder == settings.data_path / "preprocessed"


def test_data_that_moves_as_a_whole_keeps_its_images(sample: Path, settings: Settings, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(sample, settings.data_path / "raw"))
    ensure_prepared(raw, settings)
    moved = settings.data_path.rename(tmp_path / "moved")
    images = Prepared.open(moved / "preprocessed").images()
    assert images is not None
    assert len(images) > 0


def test_a_catalogue_too_small_to_hold_anything_out_is_refused(sample: Path, tmp_path: Path) -> None:
    ensure_validated(sample, tmp_path / "validated")
    with pytest.raises(CheckFailed, match="validation side has no product"):
        prepare(tmp_path / "validated", tmp_path / "out", options=PrepareOptions(Shares(validation=0.0)))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_neither_raw_nor_prepared_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a catalogue"):
        ensure_prepared(tmp_path, settings)
    with pytest.raises(InputError, match="not a validated folder"):
        prepare(tmp_path, tmp_path / "out")


def test_validating_twice_gives_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        validate(sample, tmp_path / name / "validated")
    for file in ("products.parquet", "quarantine.csv", "report.html"):
        one, two = (tmp_path / name / "validated" / file for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes(), file


def test_a_catalogue_with_its_new_rows_on_top_keeps_its_sides(
    sample: Path, settings: Settings, tmp_path: Path
) -> None:
    header, *rows = (sample / "X_train_update.csv").read_text().splitlines()
    sides = []
    for name, kept in {"before": rows[:300], "after": rows[300:][::-1] + rows[:300]}.items():
        raw = Path(shutil.copytree(sample, tmp_path / name))
        (raw / "X_train_update.csv").write_text("\n".join([header, *kept]) + "\n")
        table = ensure_prepared(raw, settings).products()
        sides.append(dict(table.select("key", "side").iter_rows()))
    before, after = sides
    assert len(after) > len(before)
    assert {key: after[key] for key in before} == before

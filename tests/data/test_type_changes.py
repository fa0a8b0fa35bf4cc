"""Types change: what became of earlier ones is followed to today, and rows with old labels are learnt from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from tests.end_to_end.conftest import edit_csv, write_csv, write_shop

from aisle.catalog import CHANGES_FILE, TYPES_FILE, ProductTypes, TypeChanges
from aisle.data.prepare import Prepared, ensure_prepared
from aisle.data.raw import LABELS_FILE, TRAIN_FILE
from aisle.data.source import import_catalogue
from aisle.data.validate import RETIRED_FILE, ContractOptions, validate
from aisle.errors import CatalogError
from aisle.settings import Settings

FILE = Path(CHANGES_FILE)


def changes(*rows: str) -> TypeChanges:
    return TypeChanges.from_text("\n".join(["prdtypecode,becomes", *rows]) + "\n", where=FILE)


class TestWhatBecameOfAType:
    def test_a_type_that_stands_nowhere_is_what_it_was(self) -> None:
        assert changes("10,11").now("40") == "40"

    def test_a_type_is_renumbered_merged_or_falls_away(self) -> None:
        found = changes("10,11", "12,11", "60,")
        assert [found.now(code) for code in ("10", "12", "60")] == ["11", "11", None]

    def test_a_chain_is_followed_to_its_end_in_whatever_order_it_stands(self) -> None:
        for rows in (("10,11", "11,12", "12,13"), ("12,13", "11,12", "10,11")):
            assert dict(changes(*rows)) == dict.fromkeys(("10", "11", "12"), "13")

    def test_a_chain_may_end_in_nothing(self) -> None:
        assert changes("10,11", "11,").now("10") is None

    def test_a_long_chain_is_no_trouble(self) -> None:
        found = changes(*(f"{code},{code + 1}" for code in range(20_000)))
        assert found.now("0") == "20000"

    @pytest.mark.parametrize(
        ("rows", "way"),
        [
            (["10,10"], "10 → 10"),
            (["10,11", "11,10"], "10 → 11 → 10"),
            (["9,10", "10,11", "11,10"], "10 → 11 → 10"),
        ],
    )
    def test_a_type_that_becomes_itself_is_refused_with_the_way(self, rows: list[str], way: str) -> None:
        with pytest.raises(CatalogError, match="becomes itself in the end") as refused:
            changes(*rows)
        assert f"({way})" in str(refused.value)
        assert CHANGES_FILE in str(refused.value)

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("prdtypecode,label\n10,11\n", "no columns prdtypecode and becomes"),
            ("", "no columns prdtypecode and becomes"),
            ("prdtypecode;becomes\n10;11\n", "no columns"),
            ("prdtypecode,becomes\n,11\n", "a row without a code"),
            ("prdtypecode,becomes\n10,11\n10,12\n", "type 10 stands twice"),
            ("prdtypecode,becomes\n10,11\n10,11\n", "type 10 stands twice"),
        ],
    )
    def test_a_table_that_says_nothing_clear_is_refused(self, text: str, complaint: str) -> None:
        with pytest.raises(CatalogError, match=complaint):
            TypeChanges.from_text(text, where=FILE)

    def test_a_table_that_is_not_utf8_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / CHANGES_FILE).write_bytes("prdtypecode,becomes\nété,a\n".encode("latin-1"))
        with pytest.raises(CatalogError, match="not CSV in UTF-8"):
            TypeChanges.from_csv(tmp_path / CHANGES_FILE)

    def test_a_table_without_rows_changes_nothing(self) -> None:
        assert not changes()

    def test_what_is_written_is_read_again(self) -> None:
        found = changes("10,11", '"a, b",11', "11,été", "60,")
        assert TypeChanges.from_text(found.to_csv(), where=FILE) == found

    def test_a_code_that_changed_and_is_a_type_still_is_refused(self) -> None:
        types = ProductTypes.from_codes(["10", "11"])
        with pytest.raises(CatalogError, match="type 10 has changed, and is in the table of types still"):
            changes("10,11").check(types, where=FILE)

    def test_a_target_that_is_no_type_is_refused(self) -> None:
        with pytest.raises(CatalogError, match="type 10 becomes 99, which the table of types does not have"):
            changes("10,99").check(ProductTypes.from_codes(["11"]), where=FILE)

    def test_later_changes_go_on_where_earlier_ones_ended(self) -> None:
        earlier, later = changes("10,11", "60,", "70,71"), changes("11,12", "71,")
        assert dict(earlier.then(later)) == {"10": "12", "60": None, "70": None, "11": "12", "71": None}

    def test_what_was_taken_back_later_is_no_change_and_no_cycle(self) -> None:
        assert dict(changes("10,11").then(changes("11,10"))) == {"11": "10"}


def test_a_table_of_types_is_told_by_its_content() -> None:
    table = ProductTypes.from_codes(["10", "11"])
    assert table.id == ProductTypes.from_codes(["11", "10"]).id != ProductTypes.from_codes(["10"]).id
    assert len(table.id) == 12


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """120 products of the types A, B, C and D, each on every fourth row."""
    return write_shop(tmp_path / "shop", codes=("A", "B", "C", "D"))


def say(shop: Path, types: str, *rows: str) -> None:
    """The shop's types of today, one letter each, and what became of others."""
    write_csv(shop / TYPES_FILE, [["prdtypecode", "label"], *([code, f"type {code}"] for code in types)])
    write_csv(shop / CHANGES_FILE, [["prdtypecode", "becomes"], *(row.split(",") for row in rows)])


def counts(folder: Path) -> dict[str, int]:
    table = pl.read_parquet(folder / "products.parquet")
    return dict(sorted(table["type_code"].value_counts().iter_rows()))


class TestValidation:
    def test_mapped_rows_keep_training_and_retired_ones_are_counted_apart(self, shop: Path, tmp_path: Path) -> None:
        say(shop, "AX", "B,A", "C,X", "D,")
        found = validate(shop, tmp_path / "out")
        assert counts(tmp_path / "out") == {"A": 60, "X": 30}
        assert (found.rows, found.accepted, found.quarantined, found.retired) == (120, 90, 0, 30)
        assert found.reasons == {}
        assert found.type_changes == {
            "B": {"becomes": "A", "rows": 30},
            "C": {"becomes": "X", "rows": 30},
            "D": {"becomes": None, "rows": 30},
        }
        report = json.loads((tmp_path / "out" / "report.json").read_text())["contract"]
        assert (report["retired"], report["type_changes"]) == (30, found.type_changes)
        page = (tmp_path / "out" / "report.html").read_text()
        assert "Types that changed" in page
        assert "fell away" in page
        assert pl.read_parquet(tmp_path / "out" / RETIRED_FILE)["type_code"].unique().to_list() == ["D"]

    def test_retired_rows_are_no_bad_rows_however_many_there_are(self, shop: Path, tmp_path: Path) -> None:
        say(shop, "A", "B,", "C,", "D,")
        assert validate(shop, tmp_path / "out", options=ContractOptions(max_bad=0)).accepted == 30

    def test_the_share_of_bad_rows_is_of_those_that_could_be_learnt_from(self, shop: Path, tmp_path: Path) -> None:
        say(shop, "A", "B,", "C,", "D,")
        edit_csv(shop / TRAIN_FILE, lambda rows: rows[0].update(productid=""))
        with pytest.raises(CatalogError, match="1 of 30 rows break the data contract"):
            validate(shop, tmp_path / "out", options=ContractOptions(max_bad=0.02))

    def test_a_retired_row_that_is_bad_besides_is_counted_once(self, shop: Path, tmp_path: Path) -> None:
        say(shop, "ABC", "D,")
        edit_csv(shop / TRAIN_FILE, lambda rows: rows[3].update(productid=""))
        found = validate(shop, tmp_path / "out", options=ContractOptions(max_bad=0))
        assert (found.accepted, found.quarantined, found.retired) == (90, 0, 30)
        assert len(pl.read_parquet(tmp_path / "out" / RETIRED_FILE)) == 29

    def test_a_catalogue_all_of_whose_types_fell_away_is_refused(self, shop: Path, tmp_path: Path) -> None:
        say(shop, "Z", "A,", "B,", "C,", "D,")
        with pytest.raises(CatalogError, match="only rows of types that fell away"):
            validate(shop, tmp_path / "out", options=ContractOptions(1, allow_missing_types=True))

    def test_a_new_name_for_a_code_needs_no_mapping(self, shop: Path, tmp_path: Path) -> None:
        write_csv(shop / TYPES_FILE, [["prdtypecode", "label"], *([code, f"new {code}"] for code in "ABCD")])
        validate(shop, tmp_path / "out")
        assert ProductTypes.from_csv(tmp_path / "out" / TYPES_FILE)["A"].label == "new A"
        assert not (tmp_path / "out" / RETIRED_FILE).exists()

    def test_rows_with_labels_old_and_new_go_together(self, shop: Path, tmp_path: Path) -> None:
        say(shop, "AXCD", "B,X")
        edit_csv(shop / LABELS_FILE, lambda rows: [row.update(prdtypecode="X") for row in rows[1:40:4]])
        validate(shop, tmp_path / "out")
        assert counts(tmp_path / "out")["X"] == 30

    @pytest.mark.parametrize(
        ("types", "rows", "complaint"),
        [
            ("ABCD", ["B,A"], "type B has changed, and is in the table of types still"),
            ("ACD", ["B,Z"], "type B becomes Z, which the table of types does not have"),
            ("ACD", ["B,E", "E,B"], "becomes itself"),
        ],
    )
    def test_changes_that_do_not_fit_the_table_are_refused_before_anything_is_written(
        self, shop: Path, tmp_path: Path, types: str, rows: list[str], complaint: str
    ) -> None:
        say(shop, types, *rows)
        with pytest.raises(CatalogError, match=complaint):
            validate(shop, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "out.refused").exists()

    def test_without_a_table_of_types_the_codes_of_today_are_the_types(self, shop: Path, tmp_path: Path) -> None:
        say(shop, "", "B,A", "C,X", "D,")
        (shop / TYPES_FILE).unlink()
        validate(shop, tmp_path / "out")
        assert counts(tmp_path / "out") == {"A": 60, "X": 30}

    def test_of_rakutens_table_what_changed_is_left_out(self, sample: Path, tmp_path: Path) -> None:
        raw = Path(shutil.copytree(sample, tmp_path / "raw"))
        (raw / TYPES_FILE).unlink()
        write_csv(raw / CHANGES_FILE, [["prdtypecode", "becomes"], ["40", "50"], ["60", ""]])
        validate(raw, tmp_path / "out")
        types = ProductTypes.from_csv(tmp_path / "out" / TYPES_FILE)
        assert len(types) == 25
        assert not {"40", "60"} & set(types)


class TestPreparation:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(data_path=tmp_path / "data", cache_path=tmp_path / "cache")

    def test_what_is_left_keeps_its_side_and_group(
        self, sample: Path, prepared: Prepared, settings: Settings, tmp_path: Path
    ) -> None:
        """Also where a product of a type that fell away is the first of its group."""
        raw = Path(shutil.copytree(sample, tmp_path / "raw"))
        before = ensure_prepared(raw, settings).products()
        codes = ProductTypes.from_csv(raw / TYPES_FILE)
        retired = before.filter(pl.col("group").is_duplicated())["type_code"].value_counts().sort("count")[-1, 0]
        one, other = [code for code in codes if code != retired][:2]
        kept = [[code, codes[code].label] for code in codes if code not in (retired, one)]
        write_csv(raw / TYPES_FILE, [["prdtypecode", "label"], *kept])
        write_csv(raw / CHANGES_FILE, [["prdtypecode", "becomes"], [retired, ""], [one, other]])
        after = ensure_prepared(raw, settings).products()
        assert 0 < len(after) < len(before)
        columns = ["key", "side", "group"]
        assert after.select(columns).equals(before.filter(pl.col("type_code") != retired).select(columns))

    def test_it_is_another_catalogue_with_another_hash(self, shop: Path, settings: Settings) -> None:
        say(shop, "ABCD")
        (shop / CHANGES_FILE).unlink()
        before = ensure_prepared(shop, settings).data_hash
        say(shop, "ABCD", "Z,")
        after = ensure_prepared(shop, settings)
        assert after.data_hash != before
        assert dict(after.changes()) == {"Z": None}
        say(shop, "ABCD")
        assert ensure_prepared(shop, settings).data_hash == before


def test_an_import_brings_the_changes_and_takes_them_away_again(shop: Path, tmp_path: Path) -> None:
    say(shop, "ACD", "B,A")
    to, settings = tmp_path / "raw", Settings(data_path=tmp_path / "data")
    import_catalogue(str(shop), to, settings=settings)
    assert (to / CHANGES_FILE).read_bytes() == (shop / CHANGES_FILE).read_bytes()
    states = {one.name: one.state for one in import_catalogue(str(shop), to, settings=settings).files}
    assert states[CHANGES_FILE] == "already there"
    say(shop, "ABCD", "Z,")
    assert import_catalogue(str(shop), to, settings=settings)
    assert (to / CHANGES_FILE).read_bytes() == (shop / CHANGES_FILE).read_bytes()
    (shop / CHANGES_FILE).unlink()
    import_catalogue(str(shop), to, settings=settings)
    assert not (to / CHANGES_FILE).exists()

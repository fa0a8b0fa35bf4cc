"""The data contract where it has to decide what a catalogue means."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from aisle.data.raw import RAKUTEN_TYPES
from aisle.data.validate import ContractOptions, choose_types, ensure_validated, fingerprint, validate
from aisle.errors import CatalogError, UsageError

RAKUTEN = [line.split(",")[0] for line in RAKUTEN_TYPES.read_text().splitlines()[1:]]


def types_of(folder: Path, codes: list[str]) -> list[str]:
    return list(choose_types(folder, pl.DataFrame({"type_code": codes})))


def test_codes_that_happen_to_be_rakutens_are_another_shops(tmp_path: Path) -> None:
    assert types_of(tmp_path, ["10", "20", "30", "40", "50"]) == ["10", "20", "30", "40", "50"]
    assert types_of(tmp_path, ["10", "40", "50"]) == ["10", "40", "50"]


def test_rakutens_catalogue_gets_rakutens_names_though_a_label_is_wrong(tmp_path: Path) -> None:
    assert types_of(tmp_path, [*RAKUTEN[2:], "99999"]) == RAKUTEN


def test_a_catalogues_own_table_comes_first(tmp_path: Path) -> None:
    (tmp_path / "product_types.csv").write_text("prdtypecode,label\nA,Pommes\n")
    assert types_of(tmp_path, RAKUTEN) == ["A"]


def small_shop(folder: Path, *, image_ids: bool) -> Path:
    """Forty products of two types, without any image."""
    folder.mkdir()
    rows = [f"{n},article {n},,{n},{n if image_ids else ''}" for n in range(40)]
    (folder / "X_train_update.csv").write_text(
        "\n".join([",designation,description,productid,imageid", *rows]) + "\n"
    )
    (folder / "Y_train_CVw08PX.csv").write_text(
        "\n".join([",prdtypecode", *(f"{n},{'AB'[n % 2]}" for n in range(40))]) + "\n"
    )
    (folder / "image_train").mkdir()
    return folder


def test_a_product_that_names_no_image_has_none_and_is_no_fault(tmp_path: Path) -> None:
    raw = small_shop(tmp_path / "raw", image_ids=False)
    (raw / "image_train" / "image_1_product_1.jpg").write_bytes(b"of no product")
    result = validate(raw, tmp_path / "out")
    assert (result.accepted, result.quarantined) == (40, 0)
    assert pl.read_parquet(tmp_path / "out" / "products.parquet")["image_sha256"].null_count() == 40


def test_a_product_that_names_an_image_which_is_not_there_is_a_fault(tmp_path: Path) -> None:
    raw = small_shop(tmp_path / "raw", image_ids=True)
    (raw / "image_train" / "image_x_product_x.jpg").write_bytes(b"of no product")
    with pytest.raises(CatalogError, match="40 image_missing"):
        validate(raw, tmp_path / "out")


def test_what_was_accepted_once_is_not_refused_by_a_later_step(tmp_path: Path) -> None:
    raw = small_shop(tmp_path / "raw", image_ids=False)
    labels = raw / "Y_train_CVw08PX.csv"
    labels.write_text(labels.read_text().replace("\n5,B", ""))
    with pytest.raises(CatalogError, match="1 label_missing"):
        validate(raw, tmp_path / "out")
    validate(raw, tmp_path / "out", options=ContractOptions(max_bad=0.5))
    assert ensure_validated(raw, tmp_path / "out").quarantined == 1


def test_a_folder_of_somebody_elses_is_not_replaced_by_a_refusal(tmp_path: Path) -> None:
    raw = small_shop(tmp_path / "raw", image_ids=False)
    (tmp_path / "out.refused").mkdir()
    (tmp_path / "out.refused" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        validate(raw, tmp_path / "out")
    assert (tmp_path / "out.refused" / "mine.txt").read_text() == "mine"


def test_a_success_removes_the_refusal_before_it(tmp_path: Path) -> None:
    raw = small_shop(tmp_path / "raw", image_ids=False)
    (raw / "product_types.csv").write_text("prdtypecode,label\nA,Pommes\nB,Poires\nC,Prunes\n")
    with pytest.raises(CatalogError, match="no valid row of type C"):
        validate(raw, tmp_path / "out")
    assert (tmp_path / "out.refused").is_dir()
    validate(raw, tmp_path / "out", options=ContractOptions(allow_missing_types=True))
    assert not (tmp_path / "out.refused").exists()


def test_other_code_that_looks_at_the_files_is_another_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = small_shop(tmp_path / "raw", image_ids=False)
    before = fingerprint(raw)
    assert fingerprint(raw) == before
    monkeypatch.setattr("aisle.data.validate.sources_hash", lambda package: f"other {package.__name__}")
    assert fingerprint(raw) != before


class TestChecked:
    """Tables of products whose types somebody looked at: learnt like the others."""

    def checked(self, folder: Path, table: str, name: str = "checked_phone.csv") -> pl.DataFrame:
        raw = small_shop(folder / "raw", image_ids=False)
        (raw / name).write_text(table)
        validate(raw, folder / "out", options=ContractOptions(max_bad=1))
        return pl.read_parquet(folder / "out" / "products.parquet")

    def test_they_are_rows_like_the_others_with_full_weight(self, tmp_path: Path) -> None:
        found = self.checked(tmp_path, "index,designation,description,prdtypecode\n7,Écharpe,En laine,A\n")
        assert len(found) == 41
        last = found.row(-1, named=True)
        assert (last["title"], last["description"], last["type_code"], last["weight"]) == (
            "Écharpe",
            "En laine",
            "A",
            "1",
        )

    def test_a_key_of_the_catalogue_may_come_again_and_one_of_the_table_may_not(self, tmp_path: Path) -> None:
        found = self.checked(tmp_path, "index,designation,prdtypecode\n7,a shirt,A\n7,another one,A\n")
        assert found["key"].to_list()[-1] == "|checked_phone:7"
        quarantine = pl.read_csv(tmp_path / "out" / "quarantine.csv", infer_schema=False)
        assert quarantine["reasons"].to_list() == ["key_duplicate"]

    def test_a_type_that_the_catalogue_has_not_is_a_fault_of_the_row(self, tmp_path: Path) -> None:
        raw = small_shop(tmp_path / "raw", image_ids=False)
        (raw / "product_types.csv").write_text("prdtypecode,label\nA,Pommes\nB,Poires\n")
        (raw / "checked_phone.csv").write_text("index,designation,prdtypecode\n1,a shirt,C\n,no key,A\n")
        result = validate(raw, tmp_path / "out", options=ContractOptions(max_bad=1))
        assert result.reasons == {"key_missing": 1, "label_unknown": 1, "product_id_missing": 1}

    @pytest.mark.parametrize("missing", ["index", "designation", "prdtypecode"])
    def test_a_table_without_a_column_that_it_needs_is_refused_by_name(self, tmp_path: Path, missing: str) -> None:
        table = "index,designation,prdtypecode\n7,a shirt,A\n".replace(missing, "other")
        with pytest.raises(CatalogError, match=r"checked_phone\.csv: has no column"):
            self.checked(tmp_path, table)

    def test_another_one_makes_the_folder_another_catalogue(self, tmp_path: Path) -> None:
        raw = small_shop(tmp_path / "raw", image_ids=False)
        before = fingerprint(raw)
        (raw / "checked_phone.csv").write_text("index,designation,prdtypecode\n7,a shirt,A\n")
        assert fingerprint(raw) != before

    def test_what_is_there_to_measure_on_is_not_learnt_from(self, tmp_path: Path) -> None:
        table = "index,designation,prdtypecode\n7,a shirt,A\n"
        assert len(self.checked(tmp_path, table, "gold_dev.csv")) == 40

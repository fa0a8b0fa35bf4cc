"""What a promotion would change in the catalogue: listed once, whole, and for whoever opens it in a spreadsheet."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from structlog.testing import capture_logs
from tests.end_to_end.conftest import Processes, Ran, edit_csv, read_csv, wait_until, write_csv

from aisle.batch.bulk import predict_file
from aisle.batch.changes import list_changes, versions_to_compare
from aisle.batch.comparison import COLUMNS, harmless, reason_of
from aisle.batch.measured import Measuring
from aisle.catalog import TypeChanges
from aisle.data.prepare import Prepared
from aisle.data.raw import IMAGES_ZIP, TEST_FILE, TRAIN_FILE
from aisle.errors import BundleError, CatalogError, InputError, UsageError
from aisle.files import sha256_file
from aisle.measuring import _products
from aisle.model.bundle import Bundle
from aisle.model.predictor import Predictor
from aisle.registry.bundles import BundleStore
from aisle.settings import Settings
from aisle.training.evaluate import evaluate

Run = Callable[..., Ran]


@pytest.fixture
def catalogue(shop: Settings, sample: Path) -> Path:
    """The shop's raw folder, to be changed."""
    folder = shop.data_path / "raw"
    folder.unlink()
    return Path(shutil.copytree(sample, folder))


def names(settings: Settings) -> tuple[str, str]:
    return versions_to_compare(settings)


def listed(settings: Settings, **more: Any) -> list[dict[str, str]]:
    before, after = names(settings)
    return read_csv(list_changes(settings, before=before, after=after, **more).csv)


def test_exactly_the_products_are_listed_that_bulk_prediction_says_otherwise(
    shop: Settings, bundle: Bundle, later_bundle: Bundle, sample: Path, tmp_path: Path
) -> None:
    """The features that both models share, and those of the cache, are those that each computes for itself."""
    said: list[dict[tuple[str, str], dict[str, str]]] = []
    for one in (bundle, later_bundle):
        rows: dict[tuple[str, str], dict[str, str]] = {}
        for part, name in (("train", TRAIN_FILE), ("test", TEST_FILE)):
            out = tmp_path / f"{one.version}-{part}.csv"
            predict_file(one, sample / name, out, images=sample, cores=2)
            rows |= {(part, row[""]): row for row in read_csv(out)}
        said.append(rows)
    old, new = said
    found = {(row["part"], row["key"]): row for row in listed(shop)}
    assert found.keys() == {key for key in old if old[key]["predicted"] != new[key]["predicted"]}
    assert len(found) > 50
    for key, row in found.items():
        assert (row["old"], row["new"]) == (old[key]["predicted"], new[key]["predicted"])
        assert (row["old_label"], row["new_label"]) == (old[key]["label"], new[key]["label"])
        assert float(row["old_confidence"]) == pytest.approx(float(old[key]["confidence"]), abs=1e-6)
        assert float(row["new_confidence"]) == pytest.approx(float(new[key]["confidence"]), abs=1e-6)
        assert row["decision"] == new[key]["decision"]


def test_each_product_is_listed_with_the_reason(shop: Settings) -> None:
    rows = listed(shop)
    reasons = Counter((row["reason"], row["old"], row["new"]) for row in rows)
    assert reasons["types changed", "2705", "10"] > 5
    assert reasons["types changed", "40", "41"] > 5
    assert {row["reason"] for row in rows if row["old"] == "60"} == {"types changed"}
    assert {row["reason"] for row in rows if row["new"] == "2906"} == {"types changed"}
    others = [row for row in rows if row["old"] not in ("2705", "40", "60") and row["new"] != "2906"]
    assert {row["reason"] for row in others} == {"model"}
    assert not [row for row in rows if row["old"] == row["new"]]  # another name is no other type


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("10", "11", "types changed"),
        ("10", "12", "model"),
        ("11", "12", "model"),
        ("60", "12", "types changed"),
        ("12", "99", "types changed"),
        ("", "12", "model"),
        ("12", "", "model"),
        ("60", "", "types changed"),
    ],
)
def test_a_change_that_the_table_brings_is_none_of_the_model(old: str, new: str, reason: str) -> None:
    changes = TypeChanges({"10": "11", "60": None})
    assert reason_of(old, new, changes, known_before={"10", "11", "12", "60"}) == reason


def test_the_summary_counts_what_the_list_has(shop: Settings, bundle: Bundle, later_bundle: Bundle) -> None:
    before, after = names(shop)
    report = list_changes(shop, before=before, after=after)
    rows = read_csv(report.csv)
    summary = json.loads(report.csv.with_suffix(".json").read_text())
    assert summary == json.loads(json.dumps(report.as_dict()))
    assert report.csv == shop.reports_path / later_bundle.version / "changes.csv"
    assert (report.before, report.after) == (bundle.version, later_bundle.version)
    assert (report.types_before, report.types_after) == (bundle.types().id, later_bundle.types().id)
    assert (
        report.count == len(rows) == sum(report.reasons.values()) == sum(one.products for one in report.transitions)
    )
    accepted = [row for row in rows if row["decision"] == "accept"]
    assert report.accepted == len(accepted) == sum(one.accepted for one in report.transitions)
    assert report.share == round(len(rows) / report.products, 6)
    assert report.share_accepted == round(len(accepted) / report.products, 6)
    assert report.csv_sha256 == sha256_file(report.csv)
    sizes = [one.products for one in report.transitions]
    assert sizes == sorted(sizes, reverse=True)
    assert tuple(rows[0]) == COLUMNS


def test_a_model_of_this_catalogue_is_not_said_to_have_learnt_elsewhere(
    prepared: Prepared, predictor: Predictor
) -> None:
    measuring = Measuring(prepared, predictor, predictor)
    of_test = prepared.products().filter(side="test").head(2)
    for key, product in zip(of_test["key"], _products(prepared, of_test), strict=True):
        answer = predictor.predict([product])[0]
        measuring.add(key, "train", answer, answer)
    assert measuring.figures()["learnt_elsewhere"] == {"before": False, "after": False}


def test_both_are_measured_on_the_same_products_of_the_test_side(
    shop: Settings, bundle: Bundle, later_bundle: Bundle, later_catalogue: Path
) -> None:
    """The same figures as of an evaluation, without the added type, and what the catalogue says of each product."""
    (shop.data_path / "raw").unlink()
    (shop.data_path / "raw").symlink_to(later_catalogue)
    report = list_changes(shop, before=bundle.version, after=later_bundle.version, measure=True)
    measured = json.loads(report.csv.with_suffix(".json").read_text())["measured"]
    prepared = Prepared.open(shop.data_path / "preprocessed")
    assert measured["data_hash"] == prepared.data_hash
    assert measured["learnt_elsewhere"] == {"before": True, "after": True}  # other products were their test side
    test_side = prepared.products().filter(side="test")
    added = test_side.filter(type_code="2906")
    assert measured["added"] == ({"2906": len(added)} if len(added) else {})
    common = test_side.filter(pl.col("type_code") != "2906")
    keys, codes = common["key"].to_list(), common["type_code"].to_list()
    for name, one in (("before", bundle), ("after", later_bundle)):
        with Predictor(one, threads=2) as predictor:
            products = _products(prepared, common)
            alone = evaluate(predictor, keys, products, codes, changes=prepared.changes(), least_known=0).figures
        assert measured["rows"] == measured[name]["rows"] == alone["rows"]
        figures = ("accuracy", "weighted_f1", "macro_f1", "top_3", "calibration_error")
        for figure in figures if name == "after" else figures[:2]:
            assert measured[name][figure] == pytest.approx(alone[figure], abs=1e-5), figure
    assert measured["after"]["per_type"] == alone["per_type"]
    gain = 100 * (measured["after"]["weighted_f1"] - measured["before"]["weighted_f1"])
    assert measured["gain"] == pytest.approx(gain, abs=1e-3)
    known = {key: (code, side) for key, code, side in prepared.products()["key", "type_code", "side"].iter_rows()}
    for row in read_csv(report.csv):
        expected = known.get(row["key"], ("", "")) if row["part"] == "train" else ("", "")
        assert (row["label"], row["side"]) == expected


def test_twice_gives_the_same_bytes(shop: Settings, tmp_path: Path) -> None:
    before, after = names(shop)
    for name in ("one", "two"):
        list_changes(shop, before=before, after=after, output=tmp_path / name / "changes.csv")
    one, two = (tmp_path / name for name in ("one", "two"))
    assert (one / "changes.csv").read_bytes() == (two / "changes.csv").read_bytes()
    first, second = (json.loads((folder / "changes.json").read_text()) for folder in (one, two))
    assert {**first, "csv": ""} == {**second, "csv": ""}


def test_without_a_cache_of_features_the_list_is_the_same_and_the_next_time_nothing_is_encoded(
    shop: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = names(shop)
    known = list_changes(shop, before=before, after=after).csv.read_bytes()
    fresh = shop.model_copy(update={"cache_path": tmp_path / "cache"})
    assert list_changes(fresh, before=before, after=after).csv.read_bytes() == known

    def save(*_: object) -> None:
        pytest.fail("an image was encoded though it was known")

    monkeypatch.setattr("aisle.batch.eyes.FeatureCache.save", save)
    assert list_changes(fresh, before=before, after=after).csv.read_bytes() == known


@pytest.mark.slow
def test_a_damaged_cache_costs_time_alone(shop: Settings, tmp_path: Path) -> None:
    before, after = names(shop)
    fresh = shop.model_copy(update={"cache_path": tmp_path / "cache"})
    known = list_changes(fresh, before=before, after=after).csv.read_bytes()
    shards = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(shards) > 1
    shards[0].write_bytes(b"nonsense")
    shards[1].write_bytes(shards[1].read_bytes()[:5000])
    assert list_changes(fresh, before=before, after=after).csv.read_bytes() == known


def test_a_catalogue_without_images_or_a_test_part_is_compared_by_its_texts(shop: Settings, catalogue: Path) -> None:
    (catalogue / IMAGES_ZIP).unlink()
    (catalogue / TEST_FILE).unlink()
    before, after = names(shop)
    report = list_changes(shop, before=before, after=after)
    assert report.products == len(read_csv(catalogue / TRAIN_FILE))
    assert report.count > 0
    assert {row["part"] for row in read_csv(report.csv)} == {"train"}


def test_products_with_nothing_to_look_at_and_images_that_are_not_there_are_counted(
    shop: Settings, catalogue: Path
) -> None:
    def spoil(rows: list[dict[str, str]]) -> None:
        for row in rows[:3]:
            row.update(designation="", description="", imageid="")
        rows[3].update(imageid="1")

    before, after = names(shop)
    usual = list_changes(shop, before=before, after=after)
    edit_csv(catalogue / TRAIN_FILE, spoil)
    report = list_changes(shop, before=before, after=after)
    assert report.products == usual.products
    assert report.unreadable == usual.unreadable + 3
    assert report.images_not_read == usual.images_not_read + 1


def test_what_looks_like_a_formula_is_a_text(shop: Settings, catalogue: Path) -> None:
    formula = '=HYPERLINK("http://x","Livre")'
    edit_csv(catalogue / TRAIN_FILE, lambda rows: [row.update(designation=formula) for row in rows])
    rows = [row for row in listed(shop) if row["part"] == "train"]
    assert {row["designation"] for row in rows} == {f"'{formula}"}


@pytest.mark.parametrize("cell", ["=1+1", "+cmd|' /C calc'!A0", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1"])
def test_a_cell_that_begins_like_a_formula_gets_an_apostrophe(cell: str) -> None:
    assert harmless(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["", "Livre = bon", "12", "-12", "+3,5", "-0.25", "~abc", "'=1"])
def test_any_other_cell_stays_as_it_is(cell: str) -> None:
    assert harmless(cell) == cell


class TestWhichTwoAreCompared:
    def test_by_default_the_champion_and_the_one_before_it(
        self, shop: Settings, bundle: Bundle, later_bundle: Bundle
    ) -> None:
        assert versions_to_compare(shop) == (bundle.version, "champion")

    def test_another_model_is_compared_with_the_champion(self, shop: Settings, bundle: Bundle) -> None:
        assert versions_to_compare(shop, model=bundle.version) == ("champion", bundle.version)

    def test_without_an_earlier_champion_somebody_has_to_say(self, shop: Settings, bundle: Bundle) -> None:
        BundleStore(shop.models_path).roll_back()
        with pytest.raises(InputError, match=r"no champion before this one. --before VERSION"):
            versions_to_compare(shop)

    def test_after_a_rollback_the_way_back_is_listed_as_well(
        self, shop: Settings, bundle: Bundle, later_bundle: Bundle
    ) -> None:
        BundleStore(shop.models_path).roll_back()
        report = list_changes(shop, before=later_bundle.version)
        assert (report.before, report.after) == (later_bundle.version, bundle.version)
        assert {one.old for one in report.transitions} >= {"41"}

    def test_a_version_is_not_compared_with_itself(self, shop: Settings, later_bundle: Bundle) -> None:
        with pytest.raises(UsageError, match="the version before as well as after"):
            list_changes(shop, before=later_bundle.version)

    def test_a_version_that_is_gone_or_damaged_is_said(self, shop: Settings, bundle: Bundle) -> None:
        (shop.models_path / bundle.version / "title.json").write_text("{}")
        with pytest.raises(BundleError, match="altered"):
            list_changes(shop, before=bundle.version)
        shutil.rmtree(shop.models_path / bundle.version)
        with pytest.raises(InputError, match="there is no bundle"):
            list_changes(shop, before=bundle.version)


def test_bad_input_is_told_and_leaves_nothing(shop: Settings, catalogue: Path, tmp_path: Path) -> None:
    before, after = names(shop)
    with pytest.raises(UsageError, match=r"the output is .csv"):
        list_changes(shop, before=before, after=after, output=tmp_path / "out.parquet")
    (tmp_path / "mine.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match="no summary of changes"):
        list_changes(shop, before=before, after=after, output=tmp_path / "mine.csv")
    assert (tmp_path / "mine.json").read_text() == '{"mine": 1}'
    with pytest.raises(InputError, match="no such folder"):
        list_changes(shop, before=before, after=after, data=tmp_path / "nowhere")
    write_csv(catalogue / TEST_FILE, [["", "designation"], ["1", "a"]])
    with pytest.raises(CatalogError, match="has no column"):
        list_changes(shop, before=before, after=after, output=tmp_path / "out" / "changes.csv")
    assert not (tmp_path / "out").exists()
    assert not shop.reports_path.exists()


def test_the_verb_lists_says_and_counts(shop: Settings, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("data_path", "models_path", "cache_path"):
        monkeypatch.setenv(name.upper(), str(getattr(shop, name)))
    ran = run("changes", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["told"] is False
    assert found["count"] == len(read_csv(Path(found["csv"])))
    said = run("changes", "--output", "mine.csv").out
    assert said.startswith(f"{found['count']} of {found['products']} products would change their type")
    assert Path("mine.csv").read_bytes() == Path(found["csv"]).read_bytes()
    assert "aisle_stage_last_success_timestamp_seconds" in (shop.data_path / "metrics" / "changes.prom").read_text()
    assert run("changes", "--model", "challenger").code == 3
    assert run("changes", "--before", "champion").code == 2


@pytest.mark.slow
def test_killed_half_way_it_leaves_the_list_of_before(
    shop: Settings, sample: Path, tmp_path: Path, processes: Processes
) -> None:
    """On a larger catalogue, so that there is a half way; images are encoded, for the cache is empty."""
    before, after = names(shop)
    report = list_changes(shop, before=before, after=after)
    summary = report.csv.with_suffix(".json")
    kept = {path: path.read_bytes() for path in (report.csv, summary)}
    cache = tmp_path / "cache"
    with processes.start(
        "changes", cwd=tmp_path, DATA_PATH=shop.data_path, MODELS_PATH=shop.models_path, CACHE_PATH=cache
    ) as process:
        wait_until(lambda: list(report.csv.parent.glob(".tmp-*")), process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert {path: path.read_bytes() for path in kept} == kept
    ran = processes.run(
        "changes", cwd=tmp_path, DATA_PATH=shop.data_path, MODELS_PATH=shop.models_path, CACHE_PATH=cache
    )
    assert ran.code == 0, ran.err
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_list_whose_summary_was_not_written_yet_has_none(shop: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of another run."""
    before, after = names(shop)
    report = list_changes(shop, before=before, after=after)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("aisle.batch.changes.write_json", full)
    with pytest.raises(OSError, match="No space"):
        list_changes(shop, before=before, after=after)
    assert report.csv.is_file()
    assert not report.csv.with_suffix(".json").exists()


def test_a_csv_with_line_breaks_in_titles_is_read_again(shop: Settings, catalogue: Path) -> None:
    title = 'Livre "ancien",\nrelié'
    edit_csv(catalogue / TRAIN_FILE, lambda rows: [row.update(designation=title) for row in rows])
    before, after = names(shop)
    report = list_changes(shop, before=before, after=after)
    with report.csv.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == report.count
    assert {row["designation"] for row in rows if row["part"] == "train"} <= {title}


def test_the_log_says_how_many(shop: Settings) -> None:
    before, after = names(shop)
    with capture_logs() as logs:
        report = list_changes(shop, before=before, after=after)
    [said] = [one for one in logs if one["event"] == "changes listed"]
    assert (said["products"], said["changes"]) == (report.products, report.count)

"""Corrections become rows of a catalogue: each product once, weighed by who agrees, and nobody too heavy."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from aisle.catalog import CHANGES_FILE
from aisle.data import raw
from aisle.data.prepare import ensure_prepared
from aisle.data.validate import read_labelled
from aisle.errors import CatalogError, InputError
from aisle.loop.corrections import CORRECTIONS_FILE, Collected, collect, correct, read_corrections, weights
from aisle.settings import Settings
from aisle.store.predictions import Word


def word(
    number: int, product: str, person: str, code: str, *, title: str = "", text: str = "", key: str | None = None
) -> Word:
    return Word(number, f"p{number}", product * 64, key, title or f"Produit {product}", text, person, code)


def test_the_last_word_on_a_product_counts_weighed_by_who_agrees_with_it() -> None:
    words = [
        word(1, "a", "anne", "10"),
        word(2, "b", "anne", "40"),
        word(3, "a", "paul", "40"),
        word(4, "a", "anne", "2583"),
        word(5, "a", "lise", "2583"),
    ]
    b, a = correct(words)
    assert (b.type_code, b.agreement, b.reviewer) == ("40", 1.0, "anne")
    assert (a.type_code, a.agreement, a.reviewer, a.word) == ("2583", 2 / 3, "lise", 5)


def test_no_reviewer_weighs_more_than_the_limit() -> None:
    many = correct([word(number, chr(97 + number), "anne", "10") for number in range(10)])
    few = correct([word(20, "y", "paul", "10"), word(21, "z", "paul", "10")])
    weighed = weights(many + few, limit=4)
    assert sum(weighed[:10]) == pytest.approx(4)
    assert weighed[10:] == [1.0, 1.0]


@pytest.mark.parametrize("lies", [20, 200, 2_000])
def test_a_reviewer_who_lies_moves_a_class_by_the_limit_and_no_more(sample: Path, tmp_path: Path, lies: int) -> None:
    """5 % of 540 rows are 27: by so much grows the type that all is said to be, and no other shrinks."""
    said = [(number, "mallory", "2583") for number in range(lies)] + [(lies + n, "anne", "10") for n in range(10)]
    words = [
        replace(word(number, "a", person, code), input_hash=f"{number:024x}".ljust(64, "0"))
        for number, person, code in said
    ]
    collected = collect(words, sample, tmp_path / "retraining", reviewer_share=0.05)
    before, after = weight_by_type(sample), weight_by_type(collected.folder)
    moved = {code: round(after[code] - before.get(code, 0), 2) for code in after}
    assert {code: weight for code, weight in moved.items() if weight} == {"2583": min(lies, 27), "10": 10}


def weight_by_type(folder: Path) -> dict[str, float]:
    rows = read_labelled(folder).group_by("type_code").agg(pl.col("weight").cast(pl.Float64).sum())
    return dict(rows.iter_rows())


@pytest.fixture
def collected(sample: Path, tmp_path: Path) -> Collected:
    words = [
        word(1, "a", "anne", "2583", title='=Piscine "ronde", 3 m\nbleue', text="en été"),
        word(2, "b", "anne", "no such type"),
        word(3, "c", "paul", "10", title=" ", text="Livre ancien", key="4711"),
    ]
    return collect(words, sample, tmp_path / "retraining", reviewer_share=0.05)


def test_words_on_earlier_types_are_words_on_what_these_are_today(sample: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(sample, tmp_path / "base"))
    types = base / "product_types.csv"
    kept = [line for line in types.read_text().splitlines() if line.split(",")[0] not in ("2705", "60")]
    types.write_text("\n".join(kept) + "\n")
    said = [word(1, "a", "anne", "2705"), word(2, "a", "paul", "10"), word(3, "b", "anne", "60")]
    before = collect(said, sample, tmp_path / "retraining", reviewer_share=0.05)
    assert (before.corrections, before.unknown_types) == (2, 0)
    (base / "product_type_changes.csv").write_text("prdtypecode,becomes\n2705,10\n60,\n")
    after = collect(said, base, tmp_path / "retraining", reviewer_share=0.05)
    assert (after.corrections, after.unknown_types) == (1, 1)
    assert read_corrections(tmp_path / "retraining" / CORRECTIONS_FILE)["a" * 64].agreement == 1
    kept_words = collect([], base, tmp_path / "retraining", reviewer_share=0.05)
    assert (kept_words.corrections, kept_words.unknown_types) == (1, 1)


def test_the_base_stays_as_it_is_and_the_corrections_come_behind(collected: Collected, sample: Path) -> None:
    before, after = read_labelled(sample), read_labelled(collected.folder)
    assert after.head(len(before)).drop("weight").equals(before.drop("weight"))
    added = after.tail(len(after) - len(before))
    assert added["title"].to_list() == ['=Piscine "ronde", 3 m\nbleue', " "]
    assert added["description"].to_list() == ["en été", "Livre ancien"]
    assert added["type_code"].to_list() == ["2583", "10"]
    assert added["product_id"].to_list()[1] == "4711"
    assert added["weight"].to_list() == ["1", "1"]
    assert (collected.corrections, collected.new, collected.unknown_types, collected.last_word) == (2, 2, 1, 3)


def test_products_of_the_base_keep_their_side_and_the_catalogue_is_accepted(
    collected: Collected, sample: Path, tmp_path: Path
) -> None:
    settings = Settings(data_path=tmp_path / "data")
    before = ensure_prepared(sample, settings).products()
    after = ensure_prepared(collected.folder, settings).products()
    sides = dict(after.select("key", "side").iter_rows())
    assert {key: sides[key] for key in before["key"]} == dict(before.select("key", "side").iter_rows())
    assert len(after) == len(before) + 2


def test_what_was_collected_before_stays_though_its_feedback_is_gone(sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "retraining"
    collect([word(1, "a", "anne", "10"), word(2, "b", "anne", "10")], sample, out, reviewer_share=0.05)
    again = collect([word(3, "b", "paul", "40")], sample, out, reviewer_share=0.05)
    found = read_corrections(out / CORRECTIONS_FILE)
    assert [one.type_code for one in found.values()] == ["10", "40"]
    assert (again.corrections, again.new, again.last_word) == (2, 0, 3)


def test_twice_the_same_words_give_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        folder = collect([word(1, "a", "anne", "10")], sample, tmp_path / "out", reviewer_share=0.05).folder
        contents.append([(path.name, path.read_bytes()) for path in sorted(folder.glob("*.csv"))])
    assert contents[0] == contents[1]


def test_without_corrections_the_catalogue_is_the_base(sample: Path, tmp_path: Path) -> None:
    folder = collect([], sample, tmp_path / "out", reviewer_share=0.05).folder
    assert read_labelled(folder).drop("weight").equals(read_labelled(sample).drop("weight"))


def test_a_correction_to_an_earlier_type_is_one_to_what_it_became(sample: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(sample, base)
    (base / CHANGES_FILE).write_text("prdtypecode,becomes\n9999,2583\n8888,\n")
    words = [word(1, "a", "anne", "9999"), word(2, "b", "anne", "8888")]
    found = collect(words, base, tmp_path / "out", reviewer_share=0.05)
    assert (found.corrections, found.unknown_types) == (1, 1)
    assert read_labelled(found.folder)["type_code"][-1] == "2583"


def test_weights_of_the_base_stay(sample: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(sample, base)
    keys = read_labelled(base)["key"].to_list()
    lines = ["index,agreement", *(f"{key},0.{number % 9 + 1}" for number, key in enumerate(keys))]
    (base / raw.AGREEMENT_FILE).write_text("\n".join(lines) + "\n")
    folder = collect([word(1, "a", "anne", "10")], base, tmp_path / "out", reviewer_share=0.05).folder
    assert read_labelled(folder)["weight"].to_list() == [*read_labelled(base)["weight"].to_list(), "1"]


def test_a_damaged_file_of_corrections_is_refused_and_stays(sample: Path, tmp_path: Path) -> None:
    path = tmp_path / "out" / CORRECTIONS_FILE
    path.parent.mkdir()
    path.write_text("half a li")
    with pytest.raises(CatalogError, match="damaged"):
        collect([word(1, "a", "anne", "10")], sample, tmp_path / "out", reviewer_share=0.05)
    assert path.read_text() == "half a li"


def test_a_base_that_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        collect([], tmp_path / "nothing", tmp_path / "out", reviewer_share=0.05)

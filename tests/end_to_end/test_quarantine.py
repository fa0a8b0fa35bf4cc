"""Rows that break the data contract go to a table with their reasons; the rest goes on, unless there are too many."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.end_to_end.conftest import (
    Processes,
    Ran,
    contents,
    edit_csv,
    image_path,
    leftovers,
    picture,
    read_csv,
    write_csv,
    write_shop,
)

from aisle.catalog import TYPES_FILE
from aisle.data.raw import AGREEMENT_FILE, LABELS_FILE, TRAIN_FILE

Run = Callable[..., Ran]
START_OF_FRAME, QUANTISATION = b"\xff\xc0", b"\xff\xdb"  # of a JPEG
LONG_TEXT = "livre " * 17_000  # 100 KB

# The key of a product of the spoilt shop → what is wrong with it.
BAD = {
    "0": "product_id_missing; image_missing",
    "2": "label_missing",
    "3": "label_unknown",
    "4": "weight_out_of_range",
    "5": "weight_out_of_range",
    "6": "weight_out_of_range",
    "7": "title_too_long",
    "8": "description_too_long",
    "9": "image_missing",
    "10": "image_corrupt",
    "11": "image_empty",
    "12": "image_not_an_image",
    "13": "image_corrupt",
    "14": "nothing_to_learn_from; image_missing",
    "15": "key_duplicate",
    "18": "image_corrupt",
    "": "key_missing; label_missing; weight_out_of_range",
}
FINE = {
    "1": "no image named",
    "20": "a PNG named .jpg",
    "21": "no title, but an image",
    "22": "a comma, quotes and a line break in the title",
    "23": "a JPEG with a flipped bit that decodes all the same",
    "15": "the first of two rows with one key",
}


def spoil_products(rows: list[dict[str, str]]) -> None:
    rows[0]["productid"] = ""
    rows[1]["imageid"] = ""
    rows[7]["designation"] = LONG_TEXT
    rows[8]["description"] = LONG_TEXT
    rows[14]["designation"] = " "
    rows[16][""] = "15"
    rows[17][""] = ""
    rows[21]["designation"] = ""
    rows[22]["designation"] = 'Livre "ancien",\nrelié'


def spoil_labels(rows: list[dict[str, str]]) -> None:
    rows[3]["prdtypecode"] = "P3"
    rows[17][""] = "999"
    del rows[16], rows[2]


def spoil_images(shop: Path) -> None:
    def path(key: int) -> Path:
        return image_path(shop, key)

    path(9).unlink()
    path(10).write_bytes(picture(10)[:300])
    path(11).write_bytes(b"")
    path(12).write_bytes(b"an image, or so its name says")
    path(13).write_bytes(flipped(picture(13, "PNG"), 60))
    path(14).unlink()
    path(20).write_bytes(picture(20, "PNG"))
    path(18).write_bytes(flipped(picture(18), picture(18).index(START_OF_FRAME) + 7))  # the width
    path(23).write_bytes(flipped(picture(23), picture(23).index(QUANTISATION) + 10))


def flipped(content: bytes, position: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 0x04
    return bytes(changed)


@pytest.fixture(scope="module")
def place(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a shop with a bad row of each kind was validated; `report` is what the command said."""
    place = tmp_path_factory.mktemp("quarantine")
    shop = write_shop(place / "shop", images=120)
    edit_csv(shop / TRAIN_FILE, spoil_products)
    edit_csv(shop / LABELS_FILE, spoil_labels)
    spoil_images(shop)
    weights = {4: "0", 5: "1.5", 6: "much"}
    write_csv(shop / AGREEMENT_FILE, [["", "agreement"], *([key, weights.get(key, "0.5")] for key in range(120))])
    write_csv(shop / TYPES_FILE, [["prdtypecode", "label"], ["L1", "Livres"], ["P2", "Piscines"]])
    ran = processes.run("validate", "--data", "shop", "--out", "out", "--max-bad", "0.2", "--json", cwd=place)
    assert ran.code == 0, ran.err
    (place / "report").write_text(ran.out)
    return place


@pytest.mark.parametrize("key", BAD, ids=BAD.values())
def test_a_bad_row_is_put_aside_with_its_reasons(place: Path, key: str) -> None:
    assert [row["reasons"] for row in read_csv(place / "out" / "quarantine.csv") if row["key"] == key] == [BAD[key]]


@pytest.mark.parametrize("key", FINE, ids=FINE.values())
def test_what_is_odd_but_fine_goes_on(place: Path, key: str) -> None:
    import polars as pl

    accepted = pl.read_parquet(place / "out" / "products.parquet")
    assert (accepted["key"] == key).sum() == 1


def test_every_row_is_either_accepted_or_put_aside(place: Path) -> None:
    report = json.loads((place / "report").read_text())
    assert report["rows"] == 120
    assert report["quarantined"] == len(BAD) == len(read_csv(place / "out" / "quarantine.csv"))
    assert report["accepted"] == 120 - len(BAD)
    assert sum(report["reasons"].values()) == sum(len(reasons.split("; ")) for reasons in BAD.values())


def test_a_row_with_too_few_cells_is_put_aside(run: Run, here: Path) -> None:
    shop = write_shop(here / "shop")
    with (shop / TRAIN_FILE).open("a") as stream:
        stream.write("120,livre\n")
    with (shop / LABELS_FILE).open("a") as stream:
        stream.write("120,L1\n")
    assert run("validate", "--data", "shop", "--out", "out").code == 0
    [row] = read_csv(here / "out" / "quarantine.csv")
    assert (row["key"], row["reasons"]) == ("120", "product_id_missing")


def test_a_label_for_no_product_does_no_harm_and_is_told(run: Run, here: Path) -> None:
    shop = write_shop(here / "shop")
    with (shop / LABELS_FILE).open("a") as stream:
        stream.write("999,L1\n")
    ran = run("validate", "--data", "shop", "--out", "out", "--json")
    assert (ran.code, json.loads(ran.out)["accepted"]) == (0, 120)
    assert "rows for no product are not used" in ran.err


@pytest.mark.parametrize("content", ["byte order mark", "CRLF"])
def test_how_a_spreadsheet_writes_csv_is_fine(run: Run, here: Path, content: str) -> None:
    shop = write_shop(here / "shop")
    for path in (shop / TRAIN_FILE, shop / LABELS_FILE):
        text = path.read_text()
        text = f"\ufeff{text}" if content == "byte order mark" else text.replace("\n", "\r\n")
        path.write_bytes(text.encode())
    ran = run("validate", "--data", "shop", "--out", "out", "--json")
    assert (ran.code, json.loads(ran.out)["accepted"]) == (0, 120)


class TestLimits:
    """At most 1 % of the rows may be bad, and every type of the table has a row left."""

    @staticmethod
    def shop(here: Path, *, bad: int) -> Path:
        def spoil(rows: list[dict[str, str]]) -> None:
            for row in rows[:bad]:
                row["prdtypecode"] = ""

        shop = write_shop(here / "shop", products=200)
        edit_csv(shop / LABELS_FILE, spoil)
        return shop

    def test_one_percent_of_bad_rows_goes_on(self, run: Run, here: Path) -> None:
        self.shop(here, bad=2)
        assert run("validate", "--data", "shop", "--out", "out").code == 0
        assert len(read_csv(here / "out" / "quarantine.csv")) == 2

    def test_more_stops_and_shows_the_rows_and_reasons_beside_the_earlier_result(self, run: Run, here: Path) -> None:
        self.shop(here, bad=2)
        run("validate", "--data", "shop", "--out", "out")
        earlier = contents(here / "out")
        self.shop(here, bad=3)
        ran = run("validate", "--data", "shop", "--out", "out")
        assert ran.code == 3
        assert "shop: 3 of 200 rows break the data contract (3 label_missing), more than 1.0%" in ran.complaint
        assert "out.refused/quarantine.csv" in ran.complaint
        assert [row["key"] for row in read_csv(here / "out.refused" / "quarantine.csv")] == ["0", "1", "2"]
        assert {"report.html", "report.json"} <= contents(here / "out.refused").keys()
        assert contents(here / "out") == earlier
        assert leftovers(here) == []

    @pytest.mark.parametrize("verb", ["validate", "train"])
    def test_max_bad_sets_another_limit(self, run: Run, here: Path, verb: str) -> None:
        self.shop(here, bad=3)
        assert run(verb, "--data", "shop", "--out", "out", "--max-bad", "0.014").code == 3
        assert run(verb, "--data", "shop", "--out", "out", "--max-bad", "0.015").code == 0

    def test_a_type_that_is_gone_stops_unless_it_may_be_missing(self, run: Run, here: Path) -> None:
        shop = write_shop(here / "shop")
        write_csv(shop / TYPES_FILE, [["prdtypecode", "label"], ["L1", ""], ["P2", ""], ["V3", ""]])
        assert run("validate", "--data", "shop", "--out", "out").code == 3
        ran = run("validate", "--data", "shop", "--out", "out", "--allow-missing-types", "--json")
        assert (ran.code, json.loads(ran.out)["missing_types"]) == (0, ["V3"])

    def test_what_was_refused_is_no_input_for_the_next_step(self, run: Run, here: Path) -> None:
        self.shop(here, bad=3)
        run("validate", "--data", "shop", "--out", "out")
        for name in ("out", "out.refused"):
            ran = run("prepare", "--data", name, "--out", "prepared")
            assert ran.code == 3
            assert f"{name}: is not a validated folder. Run `aisle validate` first." in ran.complaint
        assert not (here / "prepared").exists()

"""A table sent by a form, watched, looked through and taken away; whoever asks, and whatever is wrong with it."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from PIL import Image
from tests.auth.conftest import PASSWORD
from tests.console.conftest import Browser, Site, hidden, link_to, shown, start_site, walk

from aisle.batch.glances import SCHEMA
from aisle.batch.spool import Spool
from aisle.batch.worker import Worker
from aisle.console import bulk
from aisle.console.tables import PAGE
from aisle.model.bundle import Bundle
from aisle.service.uploads import MAX_BODY_BYTES
from aisle.store import batches
from aisle.store.engine import writing

BULK = "/console/bulk"
PART = {"X-Part": "1"}
HOSTILE = '=1+1 <script>alert(1)</script> \u202e"&'


@pytest.fixture(scope="module")
def shop(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Administrators may send many tables, reviewers one of three rows, clients none."""
    folder = tmp_path_factory.mktemp("bulk")
    (folder / "shared").mkdir()
    more = {"batch_quotas": "admin=1000/100000, reviewer=1/3", "batch_locations": str(folder / "shared")}
    with start_site(folder, [bundle], **more) as site:
        yield site


@pytest.fixture
def anne(shop: Site) -> Browser:
    browser = shop.browser("anne")
    browser.get(BULK)
    return browser


def work(site: Site, steps: int = 1000) -> None:
    """A worker does so much."""
    worker = Worker(site.engine, site.settings, clock=site.clock)
    while steps and worker.step():
        steps -= 1
    worker.close()


def table(*lines: str, columns: str = "index,designation,productid,imageid") -> bytes:
    return "\n".join([columns, *lines, ""]).encode()


def many(count: int) -> bytes:
    return table(*(f"{number},piscine ronde {number},," for number in range(count)))


def packed(**images: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in images.items():
            file.writestr(f"images/{name}.jpg", content)
    return out.getvalue()


def send(browser: Browser, *files: tuple[str, bytes], key: str = "", **more: Any) -> httpx.Response:
    """The form of the page that this browser saw last."""
    given = [("files", one) for one in files]
    return browser.post(f"{BULK}{f'?key={key}' if key else ''}", files=given, **more)


def job(browser: Browser, *files: tuple[str, bytes]) -> str:
    """The address of a job that was begun."""
    answer = send(browser, *files)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def done(site: Site, browser: Browser, *files: tuple[str, bytes]) -> str:
    address = job(browser, *files)
    work(site)
    return address


def rows_of(html: str) -> list[int]:
    """The numbers of the rows that a page shows."""
    return [int(one.replace(",", "")) for one in re.findall(r'<td [^>]*class="number muted">([\d,]+)</td>', html)]


class TestATable:
    def test_it_is_sent_watched_and_looked_through(self, shop: Site, anne: Browser, photo: bytes) -> None:
        lines = table("7,Piscine ronde,11,12", "8,,,", "9,Livre ancien,13,14")
        address = job(anne, ("sommer 1.csv", lines), ("photos.zip", packed(image_12_product_11=photo)))
        page = shown(anne.get(address).text)
        assert "waiting The table is about to be read." in page
        work(shop, steps=1)
        assert "running 0 of 3 rows" in shown(anne.get(f"{address}/watch", headers=PART).text)
        work(shop)
        html = anne.get(address).text
        assert "done 3 of 3 rows" in shown(html)
        assert rows_of(html) == [1, 2, 3]
        assert "Piscine ronde 7" in shown(html)
        assert "there is nothing to classify" in html
        assert "image_14_product_13: there is no such image" in html
        assert "sommer 1.csv" in anne.get(BULK).text

    def test_its_pictures_are_small_and_encoded_anew(self, shop: Site, anne: Browser, photo: bytes) -> None:
        large = io.BytesIO()
        with Image.open(io.BytesIO(photo)) as image:
            image.resize((700, 400)).save(large, "JPEG", comment=b"of a merchant")
        images = {"image_2_product_1": large.getvalue(), "image_4_product_3": b"\xff\xd8\xff of no use"}
        lines = table("7,Piscine,1,2", "8,Livre,3,4", "9,Jouet,5,6", "10,Console,,")
        address = done(shop, anne, ("a.csv", lines), ("photos.zip", packed(**images)))
        html = anne.get(address).text
        [picture] = re.findall(r'<img src="([^"]+)"', html)
        answer = anne.get(picture)
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["cache-control"].startswith("private")
        assert b"merchant" not in answer.content
        with Image.open(io.BytesIO(answer.content)) as image:
            assert image.size == (128, 128)
        for row in (2, 3, 4, 5, 0, 10**30):
            assert anne.get(f"{address}/images/{row}.jpg").status_code == 404

    def test_without_images_there_is_no_place_for_one(self, shop: Site, anne: Browser) -> None:
        html = anne.get(done(shop, anne, ("a.csv", many(1)))).text
        assert "glance" not in html

    def test_a_form_that_is_sent_twice_is_one_job(self, shop: Site, anne: Browser) -> None:
        key = re.findall(r"\?key=([0-9a-f]{32})", anne.get(BULK).text)[0]
        first, again = (send(anne, ("a.csv", many(2)), key=key) for _ in range(2))
        assert (first.status_code, again.status_code) == (303, 303)
        assert first.headers["location"] == again.headers["location"]
        other = send(anne, ("a.csv", many(3)), key=key)
        assert other.status_code == 422
        assert "That form was sent with other files before." in other.text
        assert key not in other.text
        work(shop)

    def test_a_script_is_told_where_the_job_is(self, shop: Site, anne: Browser) -> None:
        answer = send(anne, ("a.csv", many(1)), headers=PART)
        assert (answer.status_code, answer.content) == (201, b"")
        assert anne.get(answer.headers["location"]).status_code == 200
        work(shop)

    def test_it_may_lie_where_the_shop_allows(self, shop: Site, anne: Browser, photo: bytes) -> None:
        folder = Path(shop.settings.batch_locations)
        (folder / "t.csv").write_bytes(table("7,Piscine,1,2"))
        (folder / "photos.zip").write_bytes(packed(image_2_product_1=photo))
        fields = {"location": str(folder / "t.csv"), "images": str(folder / "photos.zip")}
        answer = anne.post(BULK, fields)
        work(shop)
        html = anne.get(answer.headers["location"]).text
        [picture] = re.findall(r'<img src="([^"]+)"', html)
        assert anne.get(picture).status_code == 200
        refused = anne.post(BULK, {"location": "/etc/passwd"})
        assert refused.status_code == 422
        assert "A batch may not read this location" in refused.text


@pytest.mark.parametrize(
    ("files", "status", "said"),
    [
        ([], 422, "Choose a table of products"),
        ([("photos.zip", b"PK")], 422, "Choose a table of products"),
        ([("a.xlsx", b"x")], 415, "The table is a CSV file"),
        ([("a.csv", b"x"), ("b.csv", b"x")], 422, "more than once"),
    ],
)
@pytest.mark.parametrize("headers", [{}, PART])
def test_what_is_no_table_is_said_and_leaves_nothing(
    anne: Browser, shop: Site, files: list[tuple[str, bytes]], status: int, said: str, headers: dict[str, str]
) -> None:
    before = set(shop.settings.batches_path.glob("*"))
    answer = send(anne, *files, headers=headers)
    assert (answer.status_code, said in answer.text) == (status, True)
    assert ("<h1>" in answer.text) is (headers == {})
    assert set(shop.settings.batches_path.glob("*")) == before


def test_a_table_may_be_larger_than_a_product(shop: Site, anne: Browser) -> None:
    address = job(anne, ("a.csv", many(1) + b"x" * (MAX_BODY_BYTES + 1)))
    anne.post(f"{BULK}/delete", {"id": address[-32:]})


class TestWhatGoesWrong:
    def test_a_table_that_cannot_be_read_says_why(self, shop: Site, anne: Browser) -> None:
        page = shown(anne.get(done(shop, anne, ("a.csv", b"name,price\nx,1\n"))).text)
        assert "failed" in page
        assert "neither a column &#39;designation&#39; nor &#39;description&#39;" in page

    def test_a_broken_zip_fails_the_job(self, shop: Site, anne: Browser) -> None:
        page = shown(anne.get(done(shop, anne, ("a.csv", table("7,a,1,2")), ("p.zip", b"PK\x03\x04 no"))).text)
        assert "failed" in page
        assert "p.zip" in page

    def test_a_table_that_is_too_long_says_how_long_it_may_be(self, shop: Site) -> None:
        rita = shop.browser("rita")
        page = shown(rita.get(done(shop, rita, ("a.csv", many(4)))).text)
        assert "has more than 3 rows, which are allowed" in page

    def test_a_job_that_is_cancelled_keeps_what_is_done(
        self, shop: Site, anne: Browser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aisle.batch.bulk.ROWS_OF_TEXT", 8)
        address = job(anne, ("a.csv", many(30)))
        work(shop, steps=3)
        assert anne.post(f"{BULK}/cancel", {"id": address[-32:]}).headers["location"] == address
        html = anne.get(address).text
        assert "cancelled 16 of 30 rows" in shown(html)
        assert rows_of(html) == list(range(1, 17))
        assert anne.get(f"{address}/results.csv").status_code == 409
        assert len(anne.get(f"{address}/results.csv?partial=true").text.splitlines()) == 17

    def test_a_job_that_is_deleted_is_gone(self, shop: Site, anne: Browser) -> None:
        address = done(shop, anne, ("a.csv", many(2)))
        assert anne.post(f"{BULK}/delete", {"id": address[-32:]}).headers["location"] == BULK
        assert anne.get(address).status_code == 404
        assert not Spool(shop.settings.batches_path).folder(address[-32:]).exists()

    def test_without_a_worker_the_page_says_after_a_while_what_to_start(self, own_site: Site) -> None:
        anne = own_site.browser("anne")
        address = job(anne, ("a.csv", many(2)))
        assert "aisle worker" not in anne.get(address).text
        own_site.clock.now += bulk.IDLE + timedelta(seconds=1)
        assert "aisle worker" in anne.get(address).text
        with writing(own_site.engine) as connection:
            batches.claim(connection, "somebody", now=own_site.clock(), lease=timedelta(seconds=30))
        assert "aisle worker" not in anne.get(f"{address}/watch").text

    def test_a_result_from_before_there_were_pages_can_be_downloaded(self, shop: Site, anne: Browser) -> None:
        address = done(shop, anne, ("a.csv", many(2)))
        (shop.settings.batches_path / address[-32:] / "glances.parquet").unlink()
        html = anne.get(address).text
        assert "This result cannot be shown here" in html
        [link] = re.findall(r'href="([^"]+results.csv[^"]*)"', html)
        assert len(anne.get(link).text.splitlines()) == 3


class TestWhose:
    @pytest.mark.parametrize(
        "path", ["", "/watch", "/results.csv", "/results.parquet", "/shown.csv", "/images/1.jpg"]
    )
    def test_anothers_job_is_as_if_it_were_not_there(
        self, shop: Site, anne: Browser, photo: bytes, path: str
    ) -> None:
        files = (("a.csv", table("7,a,1,2")), ("p.zip", packed(image_2_product_1=photo)))
        address = done(shop, anne, *files)
        assert anne.get(f"{address}{path}").status_code == 200
        assert shop.browser("rita").get(f"{address}{path}").status_code == 404

    @pytest.mark.parametrize("verb", ["cancel", "delete"])
    def test_nor_can_anybody_end_it(self, shop: Site, anne: Browser, verb: str) -> None:
        address = job(anne, ("a.csv", many(1)))
        rita = shop.browser("rita")
        assert rita.post(f"{BULK}/{verb}", {"id": address[-32:]}).status_code == 404
        work(shop)
        assert "done 1 of 1 rows" in shown(anne.get(address).text)

    def test_a_role_without_a_quota_is_told_so(self, shop: Site) -> None:
        carl = shop.browser("carl")
        html = carl.get(BULK).text
        assert "Your role may not have tables classified." in html
        assert "multipart" not in html
        assert send(carl, ("a.csv", many(1))).status_code == 403

    def test_so_many_jobs_may_be_under_way(self, shop: Site) -> None:
        rita = shop.browser("rita")
        address = job(rita, ("a.csv", many(1)))
        assert "1 of your 1 tables under way" in rita.get(BULK).text
        refused = send(rita, ("a.csv", many(1)))
        assert refused.status_code == 429
        assert "1 of your batches are under way" in refused.text
        rita.post(f"{BULK}/delete", {"id": address[-32:]})

    def test_the_list_has_ones_own_jobs_the_newest_first_page_by_page(self, own_site: Site) -> None:
        rita, made = own_site.browser("rita"), []
        send(own_site.browser("anne"), ("annes.csv", many(1)))
        for number in range(bulk.JOBS + 2):
            with writing(own_site.engine) as connection:
                new = batches.NewBatch(f"{number:032x}", "rita", f"t{number}.csv", None, None, None, "x", 10)
                batches.add(connection, new, at=own_site.clock() + timedelta(seconds=number))
            made.append(f"t{number}.csv")
        html = rita.get(BULK).text
        found = re.findall(r"<bdi>(\w+\.csv)</bdi>", html)
        following = re.search(r'rel="next" href="([^"]+)"', html)
        assert following
        found += re.findall(r"<bdi>(\w+\.csv)</bdi>", rita.get(following[1]).text)
        assert found == made[::-1]
        last = rita.get(link_to(html, "next")).text
        assert link_to(last, "prev") == BULK
        assert not link_to(html, "prev")

    def test_a_form_has_to_be_of_the_page(self, shop: Site, anne: Browser) -> None:
        before = len(list(shop.settings.batches_path.glob("*")))
        assert send(anne, ("a.csv", many(1)), data={"csrf": "0" * 64}).status_code == 403
        assert len(list(shop.settings.batches_path.glob("*"))) == before


@pytest.fixture(scope="module")
def result(shop: Site) -> str:
    """A job of 130 rows, whose glances are ours: every third is unsure, every tenth has an error."""
    anne = shop.browser("anne")
    anne.get(BULK)
    address = done(shop, anne, ("a.csv", many(130)))
    numbers = range(1, 131)
    made = pl.DataFrame(
        {
            "row": numbers,
            "key": [f"k{number}" for number in numbers],
            "title": [HOSTILE + "x" * 20_000 if number == 1 else f"title {number}" for number in numbers],
            "image_at": None,
            "image_bytes": None,
            "predicted": [None if number % 10 == 0 else ("10", "2583")[number % 2] for number in numbers],
            "label": [None if number % 10 == 0 else ("Livres", "<b>Piscine")[number % 2] for number in numbers],
            "confidence": [None if number % 10 == 0 else number / 200 for number in numbers],
            "decision": [
                None if number % 10 == 0 else ("review" if number % 3 == 0 else "accept") for number in numbers
            ],
            "error": ["=nothing <i>" if number % 10 == 0 else None for number in numbers],
        },
        schema=SCHEMA,
    )
    made.write_parquet(shop.settings.batches_path / address[-32:] / "glances.parquet")
    return address


class TestTheRows:
    @pytest.mark.parametrize(
        ("query", "rows"),
        [
            ("", range(1, 131)),
            ("type=2583&decision=review", [n for n in range(1, 131) if n % 2 and n % 3 == 0 and n % 10]),
            ("decision=none", range(10, 131, 10)),
            ("error=with", range(10, 131, 10)),
            ("error=without&type=10", [n for n in range(1, 131) if n % 2 == 0 and n % 10]),
            ("low=10&high=12.5", [21, 22, 23, 24, 25]),
            ("low=60", [n for n in range(120, 131) if n % 10]),
            ("low=x&high=nan", range(1, 131)),
            ("type=%00%FF&decision=%3Cb%3E", []),
            ("after=128", [129, 130]),
            ("after=99999999999999999999999", []),
        ],
    )
    def test_a_filter_finds_what_it_says_page_by_page(
        self, anne: Browser, result: str, query: str, rows: Any
    ) -> None:
        address, found = f"{result}?{query}", []
        while address:
            html = anne.get(address).text
            found += rows_of(html)
            following = re.search(r'rel="next" href="([^"]+)"', html)
            address = following[1].replace("&amp;", "&") if following else ""
        assert found == list(rows)
        if not query:
            assert len(found) > PAGE

    @pytest.mark.parametrize("query", ["", "error=without"])
    def test_each_page_but_the_first_leads_back_to_the_one_before(
        self, anne: Browser, result: str, query: str
    ) -> None:
        pages = [rows_of(one) for one in walk(anne, f"{result}?{query}")]
        last = walk(anne, f"{result}?{query}")[-1]
        back = [rows_of(one) for one in walk(anne, link_to(last, "prev"), "prev")]
        assert len(pages) == 3
        assert back == [pages[1]]  # from where `To the beginning` leads to the first

    def test_each_choice_says_how_many_rows_it_would_show(self, anne: Browser, result: str) -> None:
        page = shown(anne.get(f"{result}?decision=review").text)
        reviews = [n for n in range(1, 131) if n % 3 == 0 and n % 10]
        pools = len([n for n in reviews if n % 2])
        assert f"Result {len(reviews)} of 130 rows" in page
        assert f"2583 · &lt;b&gt;Piscine ({pools})" in page
        assert f"Review ({len(reviews)})" in page
        assert "none (13)" in page
        assert "with an error (0)" in page

    def test_what_a_merchant_wrote_is_text(self, anne: Browser, result: str) -> None:
        html = anne.get(result).text
        assert len(html.encode()) < 100_000
        assert "<script>alert" not in html
        assert "‹U+202E›" in html
        assert "<b>Piscine" not in html
        assert "=nothing <i>" not in html

    def test_the_export_is_what_the_filter_shows_and_nothing_that_a_spreadsheet_computes(
        self, anne: Browser, result: str
    ) -> None:
        answer = anne.get(f"{result}/shown.csv?error=with")
        assert answer.headers["content-disposition"] == 'attachment; filename="a-shown.csv"'
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert [int(row["row"]) for row in rows] == list(range(10, 131, 10))
        assert {row["error"] for row in rows} == {"'=nothing <i>"}
        assert (rows[0]["key"], rows[0]["predicted"]) == ("k10", "")
        [first, *_] = csv.DictReader(io.StringIO(anne.get(f"{result}/shown.csv").text))
        assert first["title"].startswith("'=1+1 <script>")

    def test_the_whole_comes_in_three_formats(self, anne: Browser, result: str) -> None:
        assert len(anne.get(f"{result}/results.csv").text.splitlines()) == 131
        assert len(anne.get(f"{result}/results.ndjson").text.splitlines()) == 130
        assert len(pl.read_parquet(io.BytesIO(anne.get(f"{result}/results.parquet").content))) == 130
        assert anne.get(f"{result}/results.exe").status_code == 404

    def test_they_can_be_looked_at_while_the_job_runs(
        self, shop: Site, anne: Browser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aisle.batch.bulk.ROWS_OF_TEXT", 8)
        monkeypatch.setattr("aisle.batch.glances.PARTS_AT_ONCE", 2)
        address = job(anne, ("a.csv", many(60)))
        work(shop, steps=1)
        assert "Rows appear here as they are done." in anne.get(address).text
        work(shop, steps=5)
        found, following = [], address
        while following:
            html = anne.get(following).text
            found += rows_of(html)
            match = re.search(r'rel="next" href="([^"]+)"', html)
            following = match[1].replace("&amp;", "&") if match else ""
        assert found == list(range(1, 41))
        assert len(anne.get(f"{address}/shown.csv").text.splitlines()) == 41
        work(shop)
        assert len(anne.get(f"{address}/shown.csv").text.splitlines()) == 61


def test_all_of_it_is_said_in_french(shop: Site) -> None:
    anne = shop.browser("anne", **{"Accept-Language": "fr"})
    anne.get(BULK)
    assert "Classer une table" in anne.get(BULK).text
    assert "terminé 1 lignes sur 1" in shown(anne.get(done(shop, anne, ("a.csv", many(1)))).text)


def test_the_key_is_in_the_address_of_the_form_and_its_token_is_not(anne: Browser) -> None:
    html = anne.get(BULK).text
    assert hidden(html)["csrf"]
    assert PASSWORD not in html
    assert not re.search(r'action="[^"]*csrf', html)

"""The health of the catalogue on pages: what was found, in plain words, whatever merchants wrote and files hold."""

from __future__ import annotations

import csv
import io
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image
from tests.console.conftest import Browser, Site, shown, start_site
from tests.console.test_models import entries
from tests.console.test_pages import desk_of

from aisle.console import work
from aisle.console.pictures import SIDE, Pictures
from aisle.console.tables import PAGE
from aisle.data.images import IMAGES_ZIP
from aisle.files import write_json
from aisle.model.bundle import Bundle

HOSTILE = '<script>alert(1)</script>\u202e"=1+1&' + "é" * 20_000
WAIT_SECONDS = 60
REFUSED = 3
CONTRADICTING = 8


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def quarantined(number: int) -> dict[str, object]:
    reasons = ["title_too_long", "image_corrupt", "label_unknown; title_too_long"][number % 3]
    return {
        "key": f"row-{number:03d}", "title": HOSTILE, "description": HOSTILE, "product_id": "../..",
        "image_id": number, "type_code": "10", "reasons": reasons,
    }  # fmt: skip


def suspect(number: int, stem: str) -> dict[str, object]:
    return {
        "key": f"row-{number:03d}", "title": HOSTILE, "label": "10", "label_name": "Livres",
        "suggested": ("2583", "1280")[number % 2], "suggested_name": "Piscines", "label_probability": 0.01,
        "suggested_probability": 0.912, "words": "piscine ronde", "models": "title image", "image": stem,
    }  # fmt: skip


def write_reports(data: Path, stem: str = "") -> None:
    write_table(data / "validated" / "quarantine.csv", [quarantined(number) for number in range(60)])
    result = {"rows": 600, "accepted": 540, "quarantined": 60, "reasons": {}}
    write_json(data / "validated" / "validated.json", {"result": result})
    write_json(data / "preprocessed" / "prepared.json", {"result": {"data_hash": "a" * 64}})
    write_table(data / "reports/labels/suspects.csv", [suspect(number, stem) for number in range(120)])
    group = [{"group": 1, "by": "title", "key": f"k{n}", "label": "10", "label_name": "Livres", "title": HOSTILE,
              "image": ""} for n in range(CONTRADICTING)]  # fmt: skip
    write_table(data / "reports/labels/contradictions.csv", group)
    counts = {"products": 540, "suspects": 120, "contradictions": 1, "data_hash": "b" * 64}
    write_json(data / "reports/labels/labels.json", counts)


@pytest.fixture(scope="module")
def ill(bundle: Bundle, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service beside a catalogue of which much was found."""
    folder = tmp_path_factory.mktemp("ill")
    (folder / "data" / "raw").mkdir(parents=True)
    shutil.copy(sample / IMAGES_ZIP, folder / "data" / "raw")
    write_reports(folder / "data", name_of_an_image(folder))
    with start_site(folder, [bundle]) as site:
        yield site


def name_of_an_image(folder: Path) -> str:
    pictures = Pictures(folder / "data" / "raw")
    names: list[str] = sorted(pictures._images()._names)  # type: ignore[union-attr]
    return next(name for name in names if pictures.small(name) is not None)


@pytest.fixture(scope="module")
def rita(ill: Site) -> Browser:
    return ill.browser("rita")


def test_the_page_says_what_was_found_and_in_which_catalogue(rita: Browser) -> None:
    text = shown(rita.get("/console/health").text)
    assert "Products read 600 Accepted 540 Quarantined 60 10.0" in text
    assert "title too long 40" in text
    assert "damaged image 20" in text
    assert "catalogue aaaaaaaaaaaa" in text
    assert "Label suspects 120 22.2" in text
    assert "catalogue bbbbbbbbbbbb" in text
    assert "The catalogue has changed since this audit." in text


@pytest.mark.parametrize("language", ["fr", "en"])
def test_a_reason_is_said_in_the_readers_language(ill: Site, language: str) -> None:
    text = shown(ill.browser("rita", **{"Accept-Language": language}).get("/console/health/quarantine").text)
    assert ("titre trop long" if language == "fr" else "title too long") in text
    assert "title_too_long" not in text


@pytest.mark.parametrize(
    ("address", "count"),
    [
        ("quarantine", 60),
        ("quarantine?only=image_corrupt", 20),
        ("suspects", 120),
        ("suspects?only=2583", 60),
        ("suspects?only=nothing", 0),
    ],
)
def test_each_row_that_a_filter_finds_is_on_one_page_and_in_the_file(rita: Browser, address: str, count: int) -> None:
    following, found = f"/console/health/{address}", []
    while following:
        html = rita.get(following).text
        found += re.findall(r"row-\d{3}", html)
        link = re.search(r'rel="next" href="([^"]+)"', html)
        following = link[1].replace("&amp;", "&") if link else ""
    assert len(found) == len(set(found)) == count
    name, _, query = address.partition("?")
    answer = rita.get(f"/console/health/{name}.csv?{query}")
    assert answer.headers["content-type"].startswith("text/csv")
    assert [row["key"] for row in csv.DictReader(io.StringIO(answer.text, newline=""))] == found


@pytest.mark.parametrize("name", ["quarantine", "suspects", "duplicates"])
def test_what_a_merchant_wrote_is_text_and_not_all_of_it(rita: Browser, name: str) -> None:
    html = rita.get(f"/console/health/{name}").text
    assert "<script>alert" not in html
    assert "\u202e" not in html
    assert "&lt;script&gt;" in html
    assert len(html.encode()) < 100_000


def test_a_cell_of_the_export_is_computed_by_no_spreadsheet(ill: Site) -> None:
    path = ill.settings.data_path / "validated" / "quarantine.csv"
    whole = path.read_bytes()
    write_table(path, [{**quarantined(0), "title": "=1+1"}])
    assert ",'=1+1," in ill.browser("rita").get("/console/health/quarantine.csv").text
    path.write_bytes(whole)


def test_of_a_large_group_a_few_are_shown_and_the_others_counted(rita: Browser) -> None:
    text = shown(rita.get("/console/health/duplicates").text)
    assert "8 products" in text
    assert "… and 2 more" in text


def test_a_picture_is_small_new_and_for_who_is_signed_in(ill: Site, rita: Browser) -> None:
    html = rita.get("/console/health/suspects").text
    [address] = {one.replace("&amp;", "&") for one in re.findall(r'<img[^>]* src="([^"]+)"', html)}
    answer = rita.get(address)
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"].startswith("private")
    assert Image.open(io.BytesIO(answer.content)).size == (SIDE, SIDE)
    assert ill.browser().get(address).status_code == 303
    assert ill.browser("carl").get(address).status_code == 403


@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", "/etc/passwd", "images.zip", "image_0_product_../..", "a" * 5000]
)
def test_a_name_that_is_none_of_the_images_is_not_found(rita: Browser, name: str) -> None:
    assert rita.get("/console/health/image", params={"name": name}).status_code == 404


@pytest.mark.parametrize("address", ["nothing", "..%2f..%2fsecret", "nothing.csv"])
def test_there_are_no_other_lists(rita: Browser, address: str) -> None:
    assert rita.get(f"/console/health/{address}").status_code == 404


@pytest.mark.parametrize("path", ["", "/suspects", "/suspects.csv", "/work"])
def test_clients_see_nothing_of_it(ill: Site, path: str) -> None:
    assert ill.browser("carl").get(f"/console/health{path}").status_code == 403


def test_where_nothing_was_found_yet_the_page_says_what_to_do(own_site: Site) -> None:
    rita = own_site.browser("rita")
    text = shown(rita.get("/console/health").text)
    assert "aisle import --source sample --to data/raw aisle prepare" in text
    assert "aisle labels audit" in text
    assert "No model was compared" in text
    for name in ("quarantine", "suspects", "duplicates"):
        assert "Nothing to show yet" in rita.get(f"/console/health/{name}").text
        assert rita.get(f"/console/health/{name}.csv").status_code == 404


def test_a_list_without_a_row_was_looked_for_all_the_same(own_site: Site) -> None:
    data = own_site.settings.data_path
    write_reports(data)
    for name in ("validated/quarantine.csv", "reports/labels/contradictions.csv"):
        header, _, _ = (data / name).read_bytes().partition(b"\n")
        (data / name).write_bytes(header + b"\n")
    rita = own_site.browser("rita")
    for name in ("quarantine", "duplicates"):
        text = shown(rita.get(f"/console/health/{name}").text)
        assert ("Nothing of the kind" in text, "Nothing to show yet" in text) == (True, False)


@pytest.mark.parametrize(
    "name", ["validated/validated.json", "reports/labels/labels.json"], ids=["validated", "labels"]
)
@pytest.mark.parametrize("content", ["", '{"result": ', "[]", '{"products": "many"}'])
def test_a_report_that_is_half_written_is_named(own_site: Site, name: str, content: str) -> None:
    write_reports(own_site.settings.data_path)
    (own_site.settings.data_path / name).write_text(content)
    answer = own_site.browser("rita").get("/console/health")
    assert answer.status_code == 200
    assert "cannot be read; make it again" in answer.text


def test_an_import_that_was_refused_is_shown_with_its_rows(own_site: Site) -> None:
    data = own_site.settings.data_path
    write_reports(data)
    write_table(data / "validated.refused" / "quarantine.csv", [quarantined(number) for number in range(REFUSED)])
    text = shown(own_site.browser("rita").get("/console/health").text)
    assert "The last import was refused" in text
    assert f"Quarantined {REFUSED}" in text


def test_an_audit_that_fails_says_why_on_the_page_and_in_the_trail(own_site: Site) -> None:
    raw = own_site.settings.data_path / "raw"
    raw.mkdir(parents=True)
    anne = own_site.browser("anne")
    assert "Audit the labels" in anne.get("/console/health").text
    assert anne.post("/console/health/audit").headers["location"] == "/console/health"
    running = anne.get("/console/health")
    assert "The labels are being audited" in running.text
    assert anne.post("/console/health/audit").status_code == 303  # one at a time: this one is not begun
    deadline = time.monotonic() + WAIT_SECONDS
    while "data-running" in anne.get("/console/health/work", headers={"X-Part": "1"}).text:
        assert time.monotonic() < deadline
    text = shown(anne.get("/console/health").text)
    assert "The audit of the labels failed: data/raw · anne" in text
    assert "is not a catalogue" in text
    assert [one.who for one in entries(own_site, "labels.audit.ask")] == ["anne"]
    while not (failed := entries(own_site, "labels.audit.fail")):
        assert time.monotonic() < deadline
    assert "is not a catalogue" in str((failed[0].after or {})["reason"])


def test_an_audit_that_cannot_be_begun_says_why(own_site: Site) -> None:
    cache = own_site.settings.cache_path
    cache.parent.mkdir(parents=True)
    cache.write_text("no folder")
    answer = own_site.browser("anne").post("/console/health/audit")
    assert (answer.status_code, "cannot be begun" in answer.text) == (422, True)
    assert not entries(own_site, "labels.audit.ask")


def test_only_an_administrator_starts_an_audit(own_site: Site) -> None:
    (own_site.settings.data_path / "raw").mkdir(parents=True)
    rita = own_site.browser("rita")
    assert "Audit the labels" not in rita.get("/console/health").text
    assert rita.post("/console/health/audit").status_code == 403
    assert not entries(own_site, "labels.audit.ask")


@pytest.mark.parametrize("content", ["", "no json\n", '{"kind": "labels.audit"}\n', "[]\n"])
def test_a_note_of_work_that_is_damaged_is_none(own_site: Site, content: str) -> None:
    path = own_site.settings.cache_path / "console" / "work.log"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert work.latest(desk_of(own_site)) is None
    assert own_site.browser("rita").get("/console/health").status_code == 200


def test_a_page_number_that_is_none_is_the_first(rita: Browser) -> None:
    html = rita.get("/console/health/suspects?page=nothing").text
    assert len(re.findall(r"row-\d{3}", html)) == PAGE

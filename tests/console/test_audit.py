"""The audit trail on a page and as a file."""

from __future__ import annotations

import csv
import re
from datetime import timedelta

import pytest
from sqlalchemy import event
from tests.console.conftest import Site, link_to, shown, walk

from aisle.console.tables import PAGE
from aisle.store import audit
from aisle.store.engine import writing


@pytest.fixture
def full(own_site: Site) -> Site:
    """One entry an hour: of two people, of two kinds."""
    with writing(own_site.engine) as connection:
        for number in range(120):
            audit.record(
                connection,
                who=("zoe", "yan")[number % 2],
                what=("model.promote", "gate.freeze")[number % 3 == 0],
                subject=f"subject {number:03d}",
                at=own_site.clock() + timedelta(hours=number),
                before={"champion": "a"},
                after={"champion": "<b>&" if number == 119 else "=b"},
            )
    return own_site


def subjects(html: str) -> list[str]:
    return re.findall(r"subject \d{3}(?=</td>)", html)


def test_the_newest_come_first_and_each_entry_on_one_page(full: Site) -> None:
    browser, address, found = full.browser("anne"), "/console/audit?who=zoe", []
    while address:
        html = browser.get(address).text
        found += subjects(html)
        following = re.search(r'rel="next" href="([^"]+)"', html)
        address = following[1].replace("&amp;", "&") if following else ""
    assert found == [f"subject {number:03d}" for number in range(118, -1, -2)]
    assert len(found) > PAGE


def test_each_page_but_the_first_leads_back_to_the_one_before(full: Site) -> None:
    browser = full.browser("anne")
    pages = walk(browser, "/console/audit?since=2026-03-02")
    back = walk(browser, link_to(pages[-1], "prev"), "prev")
    assert [subjects(one) for one in back] == [subjects(one) for one in pages[-2::-1]]
    assert len(pages) > 1


def test_an_address_beyond_the_end_leads_back(full: Site) -> None:
    browser = full.browser("anne")
    html = browser.get("/console/audit?who=zoe&before=0").text
    assert not subjects(html)
    assert len(subjects(browser.get(link_to(html, "prev")).text)) == PAGE


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("who=yan&what=gate.freeze", 20),
        ("subject=subject+007", 1),
        ("who=nobody", 0),
        ("since=2026-03-02&until=2026-03-02", 24),
        ("since=no+day&subject=subject+007&before=no+number", 1),
        (f"subject=subject+007&before={'9' * 5000}", 1),
    ],
)
def test_a_filter_finds_what_it_says(full: Site, query: str, count: int) -> None:
    assert len(subjects(full.browser("anne").get(f"/console/audit?{query}").text)) == count


def test_what_an_entry_says_is_text(full: Site) -> None:
    html = full.browser("anne").get("/console/audit").text
    assert "<b>&" not in html
    assert "&lt;b&gt;" in html
    assert "champion a" in shown(html)


def test_what_was_done_is_said_in_the_language_of_the_page(own_site: Site) -> None:
    with writing(own_site.engine) as connection:
        for number in range(201):  # after which the first kind is on no page of the newest
            what, after = ("model.promote.ask", {"forced": True}) if number else ("gate.freeze", {"products": 1})
            audit.record(connection, who="zoe", what=what, subject="v", at=own_site.clock(), after=after)
    html = own_site.browser("anne", **{"Accept-Language": "fr"}).get("/console/audit").text
    text = shown(html)
    assert "promotion demandée v sans l&#39;examen oui" in text
    assert "True" not in text
    assert '<option value="gate.freeze">produits de l&#39;examen fixés</option>' in html


def test_the_export_has_everything_that_the_filter_finds(full: Site) -> None:
    answer = full.browser("anne").get("/console/audit.csv?who=yan")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(answer.text.splitlines()))
    assert len(rows) == 60
    assert rows[0]["subject"] == "subject 119"
    assert rows[1]["after"] == '{"champion": "=b"}'


def test_the_export_is_the_administrators(full: Site) -> None:
    assert full.browser("rita").get("/console/audit.csv").status_code == 403


@pytest.mark.parametrize(
    "address", ["audit?who={}", "audit?subject={}", "audit?what={}", "audit.csv?who={}", "review/corrections?who={}"]
)
def test_a_name_with_a_character_that_a_database_refuses_is_nobodys(full: Site, address: str) -> None:
    """PostgreSQL does; SQLite would not."""
    asked: list[str] = []
    event.listen(full.engine, "before_cursor_execute", lambda *said: asked.append(repr(said[3])))
    answer = full.browser("anne").get(f"/console/{address.format('zoe%00')}")
    assert answer.status_code == 200
    assert "subject 1" not in answer.text
    assert any("zoe" in one for one in asked)
    assert not [one for one in asked if "\\x00" in one]

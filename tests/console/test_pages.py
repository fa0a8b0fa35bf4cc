"""What holds for every page: who may see it, what its headers say, what a form has to bring, in which language."""

from __future__ import annotations

import re

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Mount
from tests.console.conftest import PAGES, Browser, Site, shown
from tests.web.routes import routes_of

from aisle.console.desk import Desk
from aisle.console.pages import create_console
from aisle.console.rendering import static_files

LARGEST = 100_000
FORMS: dict[str, dict[str, str]] = {
    "/sign-in": {"username": "anne", "password": "correct horse battery"},
    "/sign-out": {},
    "/language": {"language": "fr"},
    "/classify": {"designation": "piscine"},
    "/classify/preview": {"designation": "piscine"},
    "/classify/why": {"designation": "piscine"},
    "/classify/correct": {"prediction_id": "0" * 32, "type": "2583"},
    "/bulk": {},
    "/bulk/cancel": {"id": "0" * 32},
    "/bulk/delete": {"id": "0" * 32},
    "/review/say": {"id": "0" * 32, "type": "2583"},
    "/review/undo": {"id": "0" * 32},
    "/health/audit": {},
    "/models/compare": {"before": "0", "version": "1"},
    "/models/promote": {"version": "0", "reason": "…"},
    "/models/rollback": {"reason": "…"},
}
"""Every form of the console, filled in."""
MAY_SEE = {
    "anne": {*PAGES},
    "rita": {*PAGES} - {"/console/audit"},
    "carl": {"/console/classify", "/console/bulk"},
}


@pytest.fixture(scope="module")
def anne(site: Site) -> Browser:
    return site.browser("anne")


@pytest.mark.parametrize("name", MAY_SEE)
@pytest.mark.parametrize("page", PAGES)
def test_each_role_sees_its_pages_and_no_others(site: Site, name: str, page: str) -> None:
    answer = site.browser(name).get(page)
    assert answer.status_code == (200 if page in MAY_SEE[name] else 403)


@pytest.mark.parametrize("name", MAY_SEE)
def test_the_navigation_has_no_page_that_one_may_not_see(site: Site, name: str) -> None:
    html = site.browser(name).get("/console/classify").text
    navigation = html[html.index("<nav") : html.index("</nav>")]
    assert set(re.findall(r'href="([^"]+)"', navigation)) == {one for one in MAY_SEE[name] if one.count("/") == 2}


def test_every_link_and_file_of_a_page_is_there(site: Site, anne: Browser) -> None:
    found = {
        address.replace("&amp;", "&")
        for page in PAGES
        for address in re.findall(r'(?:href|src)="(/[^"]+)"', anne.get(page).text)
    }
    assert len(found) > 8
    assert {address: anne.get(address).status_code for address in found} == dict.fromkeys(found, 200)


def test_each_form_of_the_console_is_tried_here(site: Site) -> None:
    console = create_console(desk_of(site))
    assert {path for method, path in routes_of(console) if method == "POST"} == set(FORMS)
    assert {method for method, _ in routes_of(console)} == {"GET", "POST"}


def desk_of(site: Site) -> Desk:
    [console] = [route.app for route in site.app.routes if isinstance(route, Mount)]
    assert isinstance(console, FastAPI)
    desk: Desk = console.state.console.desk
    return desk


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("forged", ["", "0" * 64, "é"])
def test_a_form_without_its_token_changes_nothing(site: Site, anne: Browser, path: str, forged: str) -> None:
    answer = anne.post(f"/console{path}", {**FORMS[path], "csrf": forged})
    assert answer.status_code == 403
    assert "This form is too old" in answer.text
    assert anne.get("/console/classify").status_code == 200


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("place", ["cross-site", "same-site"])
def test_a_form_from_another_site_changes_nothing(anne: Browser, path: str, place: str) -> None:
    answer = anne.post(f"/console{path}", FORMS[path], headers={"Sec-Fetch-Site": place})
    assert answer.status_code == 403


def test_the_token_of_somebody_elses_form_is_none(site: Site, anne: Browser) -> None:
    rita = site.browser("rita")
    assert rita.post("/console/language", {"language": "fr", "csrf": anne.csrf}).status_code == 403


@pytest.mark.parametrize("path", [*PAGES, "/console/sign-in", "/console/nothing", "/console/static/nothing.css"])
def test_every_answer_has_the_headers_that_keep_a_browser_safe(anne: Browser, path: str) -> None:
    headers = anne.get(path).headers
    policy = dict(one.strip().split(" ", 1) for one in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_small_asks_no_other_host_and_runs_nothing_that_stands_in_it(anne: Browser, page: str) -> None:
    html = anne.get(page).text
    assert len(html.encode()) < LARGEST
    assert not re.search(r'(?:href|src|action)="(?!/console|#|data:)', html)
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=", html)


def test_a_static_file_may_be_kept_for_good(site: Site) -> None:
    for name, file in static_files().items():
        answer = httpx.get(f"{site.url}/console/static/{name}")
        assert answer.content == file.content
        assert "immutable" in answer.headers["cache-control"]
        assert len(answer.content) < LARGEST


def test_a_browser_gets_the_console_and_a_program_the_welcome(site: Site, anne: Browser) -> None:
    asked = httpx.get(site.url, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (asked.status_code, asked.headers["location"]) == (303, "/console/")
    assert httpx.get(site.url).json()["message"].startswith("Bienvenue")
    assert anne.get("/console", follow_redirects=True).url.path == "/console/classify"


@pytest.mark.parametrize(("accepts", "language"), [("fr-FR", "fr"), ("en-GB", "en"), ("de", "fr")])
def test_a_page_speaks_the_language_that_the_browser_wants(site: Site, accepts: str, language: str) -> None:
    html = site.browser().get("/console/sign-in", headers={"Accept-Language": accepts}).text
    assert f'<html lang="{language}">' in html


def test_a_language_that_was_chosen_stays(site: Site) -> None:
    browser = site.browser("rita")
    answer = browser.post("/console/language", {"language": "fr", "next": "/console/review"})
    assert answer.headers["location"] == "/console/review"
    assert "À relire" in browser.get("/console/review").text


def test_a_refusal_is_a_page_and_for_a_script_a_part_of_one(anne: Browser) -> None:
    page = anne.get("/console/nothing")
    part = anne.get("/console/nothing", headers={"X-Part": "1"})
    assert (page.status_code, part.status_code) == (404, 404)
    assert "There is nothing at this address." in shown(page.text)
    assert page.headers["x-request-id"] in page.text
    assert "<html" not in part.text


def test_a_script_is_told_that_the_session_is_over(site: Site) -> None:
    answer = site.browser().post("/console/classify/preview", {"designation": "a"}, headers={"X-Part": "1"})
    assert answer.status_code == 401
    assert "Your session is over." in answer.text
    assert '<a href="">' in answer.text  # this page again, which leads through the sign-in and back


def test_the_document_of_the_api_says_nothing_of_the_console(site: Site) -> None:
    assert "/console" not in httpx.get(f"{site.url}/openapi.json").text


def test_the_metrics_know_each_page_by_its_route(site: Site, anne: Browser) -> None:
    anne.get("/console/review/corrections?who=somebody")
    metrics = httpx.get(f"{site.url}/metrics").text
    assert 'route="/console/review/corrections"' in metrics
    assert "somebody" not in metrics

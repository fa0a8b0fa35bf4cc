"""Signing in at a browser: what its cookie is, what it opens and what not, and how long."""

from __future__ import annotations

import html
from concurrent.futures import ThreadPoolExecutor
from http.cookies import SimpleCookie
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select
from tests.auth.conftest import PASSWORD
from tests.console.conftest import PAGES, Site, hidden, start_site

from aisle.model.bundle import Bundle
from aisle.store.engine import reading
from aisle.store.schema import console_sessions, refresh_tokens
from aisle.store.users import Role


def cookie_of(answer: httpx.Response, name: str) -> str:
    """How a cookie was set, whole."""
    return next(one for one in answer.headers.get_list("set-cookie") if one.startswith(f"{name}="))


def test_the_cookie_is_for_the_console_alone_and_out_of_reach_of_scripts(site: Site) -> None:
    set_cookie = cookie_of(site.browser().sign_in("anne"), "aisle-session")
    [morsel] = SimpleCookie(set_cookie).values()
    assert (morsel["httponly"], morsel["samesite"], morsel["path"]) == (True, "lax", "/console")
    assert not morsel["secure"]
    assert not morsel["max-age"]


def test_behind_tls_the_cookie_never_leaves_it(site: Site) -> None:
    tls = {"X-Forwarded-Proto": "https"}  # from a proxy that is trusted
    asked = httpx.get(f"{site.url}/console/sign-in", headers=tls)
    [visit] = SimpleCookie(cookie_of(asked, "__Secure-aisle-visit")).values()
    form = {"csrf": hidden(asked.text)["csrf"], "username": "anne", "password": PASSWORD}
    headers = {**tls, "Cookie": f"{visit.key}={visit.value}"}
    signed_in = httpx.post(f"{site.url}/console/sign-in", headers=headers, data=form)
    [session] = SimpleCookie(cookie_of(signed_in, "__Secure-aisle-session")).values()
    assert visit["secure"]
    assert session["secure"]


@pytest.mark.parametrize(("name", "password"), [("anne", "wrong"), ("nobody", PASSWORD), ("", ""), ("anne", "")])
def test_whoever_is_not_let_in_is_told_no_more_than_that(site: Site, name: str, password: str) -> None:
    browser = site.browser()
    answer = browser.sign_in(name, password)
    assert answer.status_code == 401
    assert "Wrong name or password." in answer.text
    assert not browser.session
    assert browser.get("/console/classify").status_code == 303


@pytest.mark.parametrize("page", PAGES)
def test_a_page_leads_whoever_is_not_signed_in_through_the_sign_in_and_back(site: Site, page: str) -> None:
    browser = site.browser()
    asked = browser.get(f"{page}?before=9")
    assert asked.status_code == 303
    target = browser.get(asked.headers["location"]).url.params["next"]
    signed_in = browser.post("/console/sign-in", {"username": "anne", "password": PASSWORD, "next": target})
    assert signed_in.headers["location"] == f"{page}?before=9"


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example", "/console/\\evil", "/model", "/console/sign-in", "/console/\n"],
)
def test_a_sign_in_leads_nowhere_else(site: Site, target: str) -> None:
    browser = site.browser()
    browser.get("/console/sign-in", params={"next": target})
    answer = browser.post("/console/sign-in", {"username": "anne", "password": PASSWORD, "next": target})
    assert answer.headers["location"] == "/console/classify"


def test_a_session_opens_no_route_of_the_api(site: Site) -> None:
    browser = site.browser("anne")
    cookies = {"Cookie": f"aisle-session={browser.session}"}
    assert httpx.get(f"{site.url}/console/classify", headers=cookies).status_code == 200
    assert httpx.get(f"{site.url}/model", headers=cookies).status_code == 401
    predicted = httpx.post(f"{site.url}/predict", headers=cookies, json={"designation": "piscine"})
    assert predicted.status_code == 401


def test_a_token_opens_no_page_of_the_console(site: Site) -> None:
    form = {"username": "anne", "password": PASSWORD}
    token = httpx.post(f"{site.url}/token", data=form).json()["access_token"]
    answer = httpx.get(f"{site.url}/console/classify", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 303


def test_the_database_has_neither_the_cookie_nor_a_token(own_site: Site) -> None:
    browser = own_site.browser("anne")
    with reading(own_site.engine) as connection:
        [stored] = connection.execute(select(console_sessions)).all()
    everything = " ".join(map(str, stored))
    assert browser.session not in everything
    assert "eyJ" not in everything  # as every JWT begins


def test_whoever_signs_out_is_out_here_and_at_the_token_service(own_site: Site) -> None:
    browser = own_site.browser("anne")
    secret = browser.session
    assert browser.post("/console/sign-out").headers["location"] == "/console/sign-in"
    assert not browser.session
    again = httpx.get(f"{own_site.url}/console/classify", headers={"Cookie": f"aisle-session={secret}"})
    assert again.status_code == 303
    with reading(own_site.engine) as connection:
        assert all(connection.execute(select(refresh_tokens.c.revoked_at)).scalars())


def test_a_session_goes_on_while_it_is_used(own_site: Site) -> None:
    browser = own_site.browser("rita")
    for _ in range(10):
        own_site.clock.advance(hours=7)
        assert browser.get("/console/review").status_code == 200


def test_a_session_that_nobody_uses_ends(own_site: Site) -> None:
    browser = own_site.browser("rita")
    own_site.clock.advance(hours=own_site.settings.console_idle_hours, seconds=1)
    assert browser.get("/console/review").status_code == 303


def test_a_disabled_account_is_out_as_soon_as_its_token_has_to_be_renewed(own_site: Site) -> None:
    browser = own_site.browser("rita")
    own_site.accounts.disable("rita")
    own_site.clock.advance(minutes=own_site.settings.access_token_expire_minutes / 2)
    assert browser.get("/console/review").status_code == 303


def test_another_role_holds_from_the_next_renewal_on(own_site: Site) -> None:
    browser = own_site.browser("carl")
    assert browser.get("/console/review").status_code == 403
    own_site.accounts.set_role("carl", Role.REVIEWER)
    own_site.clock.advance(minutes=8)
    assert browser.get("/console/review").status_code == 200


def test_many_requests_at_once_renew_a_session_once(own_site: Site) -> None:
    """A refresh token that comes twice would end it."""
    browser = own_site.browser("rita")
    own_site.clock.advance(hours=1)
    headers = {"Cookie": f"aisle-session={browser.session}"}

    def ask(_: int) -> int:
        return httpx.get(f"{own_site.url}/console/review", headers=headers, timeout=30).status_code

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, range(16))) == {200}
    own_site.clock.advance(hours=1)
    assert browser.get("/console/review").status_code == 200


def test_without_the_token_service_pages_go_on_as_long_as_the_token_is_good(
    own_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = own_site.browser("rita")
    monkeypatch.setattr(own_site.app.state.parts.handover, "_url", "http://127.0.0.1:9")  # nobody listens there
    own_site.clock.advance(minutes=10)
    assert browser.get("/console/review").status_code == 200
    own_site.clock.advance(minutes=6)
    away = browser.get("/console/review")
    assert away.status_code == 503
    assert "try again later" in away.text


def test_sign_ins_are_counted_by_the_browsers_address(bundle: Bundle, tmp_path: Path) -> None:
    with start_site(tmp_path, [bundle], login_attempts_per_minute=2) as site:
        near, far = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "198.51.100.7"}
        assert [site.browser().sign_in("anne", "wrong", headers=near).status_code for _ in range(3)] == [
            401,
            401,
            429,
        ]
        assert site.browser().sign_in("anne", headers=far).status_code == 303


def test_another_language_at_the_sign_in_forgets_not_where_one_wanted_to_go(site: Site) -> None:
    browser = site.browser()
    for status in (200, 401):
        asked = browser.get("/console/sign-in?next=/console/audit%3Fbefore=9")
        if status == 401:
            asked = browser.post("/console/sign-in", {"username": "anne", "next": "/console/audit?before=9"})
        back = html.unescape(asked.text.split('name="next" value="')[1].split('"')[0])
        answer = browser.post("/console/language", {"language": "fr", "next": back})
        assert hidden(browser.get(answer.headers["location"]).text)["next"] == "/console/audit?before=9"


def test_who_signs_in_where_somebody_is_ends_the_session_of_before(own_site: Site) -> None:
    one, other = own_site.browser(), own_site.browser()
    one.get("/console/sign-in")
    form = {"username": "anne", "password": PASSWORD}
    assert one.post("/console/sign-in", form).is_redirect
    before = one.session
    assert one.post("/console/sign-in", form | {"username": "carl"}).is_redirect
    assert one.session != before
    assert one.get("/console/classify").status_code == 200
    other.client.cookies.set("aisle-session", before, path="/console")
    assert other.get("/console/classify").status_code == 303

"""The prediction service with its console and a token service, over HTTP, and browsers that keep their cookies."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine
from tests.auth.conftest import PASSWORD, SetClock
from tests.service.conftest import NO_LIMITS, other_bundle, photo
from tests.service.processes import wait_for

from aisle.auth.accounts import Accounts
from aisle.auth.app import create_app as create_token_service
from aisle.auth.keys import KeyPolicy, ensure_key
from aisle.auth.keyset import fetch_keys
from aisle.auth.tokens import TokenPolicy, Verifier
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore
from aisle.service.app import create_app
from aisle.service.champion import Champion
from aisle.settings import Settings
from aisle.store.engine import open_database
from aisle.store.migrate import migrate
from aisle.store.users import Role
from aisle.web.serving import Address, serve_beside

__all__ = ["other_bundle", "photo"]
PEOPLE = {"anne": Role.ADMIN, "rita": Role.REVIEWER, "carl": Role.CLIENT}
PAGES = (
    "/console/classify",
    "/console/bulk",
    "/console/review",
    "/console/review/corrections",
    "/console/health",
    "/console/health/quarantine",
    "/console/health/suspects",
    "/console/health/duplicates",
    "/console/models",
    "/console/models/compare",
    "/console/audit",
)


class Fields(HTMLParser):
    """Every hidden field of a page, by name: the last one of each."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "input" and given.get("type") == "hidden":
            self.found[str(given.get("name"))] = given.get("value") or ""


def hidden(html: str) -> dict[str, str]:
    parser = Fields()
    parser.feed(html)
    return parser.found


class Browser:
    """Keeps cookies, follows no redirect by itself, and sends the token of the form that it saw last."""

    def __init__(self, url: str, **headers: str) -> None:
        self.client = httpx.Client(base_url=url, headers={"Accept-Language": "en", **headers}, timeout=30)
        self.csrf = ""

    def get(self, path: str, **more: Any) -> httpx.Response:
        answer = self.client.get(path, **more)
        self.csrf = hidden(answer.text).get("csrf", self.csrf) if "html" in _kind(answer) else self.csrf
        return answer

    def post(self, path: str, data: dict[str, Any] | None = None, **more: Any) -> httpx.Response:
        return self.client.post(path, data={"csrf": self.csrf, **(data or {})}, **more)

    def sign_in(self, name: str, password: str = PASSWORD, **more: Any) -> httpx.Response:
        self.get("/console/sign-in", **more)
        return self.post("/console/sign-in", {"username": name, "password": password}, **more)

    @property
    def session(self) -> str:
        return next((value for name, value in self.client.cookies.items() if name.endswith("aisle-session")), "")


def _kind(answer: httpx.Response) -> str:
    return str(answer.headers.get("content-type", ""))


@dataclass
class Site:
    """Both services, and a clock that they share."""

    url: str
    tokens: str
    app: FastAPI
    engine: Engine
    accounts: Accounts
    clock: SetClock
    settings: Settings
    browsers: list[Browser] = field(default_factory=list)

    def browser(self, name: str = "", **headers: str) -> Browser:
        """A new one; of somebody who signed in, where there is a name."""
        browser = Browser(self.url, **headers)
        self.browsers.append(browser)
        if name:
            assert browser.sign_in(name).status_code == 303
            browser.get("/console/classify")
        return browser

    def predict(self, **product: Any) -> dict[str, Any]:
        """By the API, recorded by the time it returns."""
        token = httpx.post(f"{self.url}/token", data={"username": "carl", "password": PASSWORD}).json()
        headers = {"Authorization": f"Bearer {token['access_token']}"}
        answer = httpx.post(f"{self.url}/predict", json=product, headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        wait_for(self.app.state.parts.photos.idle.is_set)
        assert self.app.state.parts.recorder.flush()
        found: dict[str, Any] = answer.json()
        return found


@contextlib.contextmanager
def start_site(folder: Path, bundles: list[Bundle], **chosen: Any) -> Iterator[Site]:
    """The first of the bundles is the champion."""
    clock = SetClock()
    store = BundleStore(folder / "models")
    for one in bundles:
        store.add(one)
    store.make_champion(bundles[0].version)
    settings = Settings(
        rate_limits=f"{NO_LIMITS}, preview=100000/second",
        login_failures=10**6,
        login_attempts_per_minute=10**6,
        drain_seconds=0,
        champion_poll_seconds=0.1,
        database_url=f"sqlite:///{folder / 'aisle.db'}",
        models_path=store.root,
        data_path=folder / "data",
        logs_path=folder / "logs",
        trusted_proxies="127.0.0.1",
    ).model_copy(update=chosen)
    accounts, engine = open_database(settings.database_url), open_database(settings.database_url)
    migrate(engine)
    ensure_key(engine, KeyPolicy.of(settings), clock=clock)
    people = Accounts(engine, "test", clock)
    for name, role in PEOPLE.items():
        people.add_person(name, role, PASSWORD)
    token_service = create_token_service(accounts, settings, clock=clock)
    with serve_beside(token_service, Address("127.0.0.1", 0, "AUTH_PORT"), what="serving tokens") as tokens:
        keys = fetch_keys(f"{tokens}/.well-known/jwks.json")
        verifier = Verifier(keys, TokenPolicy.of(settings), clock=clock)
        champion = Champion(lambda: store.find("champion"), threads=1)
        settings = settings.model_copy(update={"auth_url": tokens})
        app = create_app(champion, engine, verifier, settings, clock=clock)
        with serve_beside(app, Address("127.0.0.1", 0, "PORT"), what="serving") as url:
            site = Site(url, tokens, app, engine, people, clock, settings)
            try:
                yield site
            finally:
                for browser in site.browsers:
                    browser.client.close()


@pytest.fixture(scope="module")
def site(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """For tests that leave it as it is, but for what is predicted."""
    with start_site(tmp_path_factory.mktemp("site"), [bundle]) as site:
        yield site


@pytest.fixture
def own_site(bundle: Bundle, tmp_path: Path) -> Iterator[Site]:
    """For one test, which may do what it likes to it."""
    with start_site(tmp_path, [bundle]) as site:
        yield site


def shown(html: str) -> str:
    """The text of a page."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def walk(browser: Browser, address: str, rel: str = "next") -> list[str]:
    """The pages from this address on, by their links to the `next`, or the `prev`; each as HTML."""
    found = []
    while address:
        found.append(browser.get(address).text)
        address = link_to(found[-1], rel)
    return found


def link_to(html: str, rel: str) -> str:
    """Where a page's link to the `next`, or the `prev`, leads."""
    found = re.search(rf'rel="{rel}" href="([^"#]+)', html)
    return found[1].replace("&amp;", "&") if found else ""

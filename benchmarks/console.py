"""The administrator's console with a full queue: what a reviewer waits for, and whether long lists slow it down.

On SQLite 100,000 predictions wait, 100,000 have been corrected, and the audit trail has 100,000 entries. What the
server takes is measured by a client that keeps its connection, what people wait for in a real Chromium; both share
the machine with the service. Where Playwright or Chromium is missing, the benchmark is skipped.
"""

from __future__ import annotations

import os
import random
import re
import secrets
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Figure, Options, Skipped, Workplace
from benchmarks.service import DATABASE, add_model, started

if TYPE_CHECKING:
    import httpx
    from playwright.sync_api import Page

MANY = 100_000
ROWS, OTHER_ROWS = "540", "594"
AT_ONCE = 5_000
PHOTOS_A_LANE = 40
PHOTO_BYTES = 15_000
TIMES = 50
LOADS = 7
WARM_UP = 5
NAME = "bench"
REVIEW = "/console/review"
HEALTH, COMPARE = "/console/health", "/console/models/compare"
CORRECTIONS = f"{REVIEW}/corrections"
AUDIT = "/console/audit"
FIRST_PAINT_MS, PAGE_KB, DEEP_RATIO = 300, 100, 2
WATCH = """() => {
  const place = document.querySelector("[data-review]");
  window.taken = [];
  let from;
  document.addEventListener("keydown", () => { from ??= performance.now(); }, true);
  new MutationObserver(() => {
    if (from === undefined) return;
    const began = from;
    from = undefined;
    requestAnimationFrame(() => setTimeout(() => window.taken.push(performance.now() - began)));
  }).observe(place, { childList: true });
}"""
"""How long it takes from the first key until the next product is drawn: a frame is, after its callbacks."""


def run(options: Options) -> list[Figure]:
    try:
        import playwright.sync_api  # noqa: F401
    except ModuleNotFoundError:
        raise Skipped("Playwright is not installed") from None
    if shutil.which("chromium") is None:
        raise Skipped("there is no Chromium")
    with Workplace() as place, ExitStack() as stack:
        place.environment["MLFLOW_TRACKING_URI"] = "off"
        place.aisle("import", "--source", "sample", "--rows", ROWS)
        if options.model:
            place.aisle("registry", "list")  # makes the folder of the store
            add_model(place, Path(options.model))
        else:
            place.aisle("train")
        place.aisle("labels", "audit")
        _compare(place)
        _fill(place)
        site = stack.enter_context(_site(place))
        client = stack.enter_context(_signed_in(site))
        return [*_on_the_server(client), *_in_a_browser(site), *_of_pages(client)]


@dataclass(frozen=True)
class _Site:
    url: str
    password: str


@contextmanager
def _site(place: Workplace) -> Iterator[_Site]:
    password = secrets.token_urlsafe(18)
    cores = {*range(os.cpu_count() or 1)}
    accounts = {"AUTH_PORT": "0", "BOOTSTRAP_ADMIN_USER": NAME, "BOOTSTRAP_ADMIN_PASSWORD": password}
    limits = "feedback=100000000/second, predict=100000000/second"
    with (
        started(place, ["auth"], accounts, cores) as (_, auth_url),
        started(place, ["serve"], {"PORT": "0", "AUTH_URL": auth_url, "RATE_LIMITS": limits}, cores) as (_, url),
    ):
        yield _Site(url, password)


# What is there


def _compare(place: Workplace) -> None:
    """Two versions side by side, as the page keeps them: what counts for it is how much there is to show."""
    from aisle.console.comparing import BESIDE, LIST_FILE
    from aisle.registry.bundles import BundleStore

    before = BundleStore(place.path / "models_path").find("champion").name
    other = place.path / "other"
    place.aisle("import", "--source", "sample", "--rows", OTHER_ROWS, "--to", other)
    place.aisle("train", "--data", other)
    [after] = {one for one in BundleStore(place.path / "models_path").versions() if one != before}
    output = place.path / "data_path" / "reports" / after / BESIDE / before / LIST_FILE
    place.aisle("changes", "--before", before, "--model", after, "--measure", "--output", output)


def _fill(place: Workplace) -> None:
    from sqlalchemy import Connection, insert, select

    from aisle.clock import utc_now
    from aisle.registry.bundles import BundleStore
    from aisle.store import photos, predictions, reviews
    from aisle.store.engine import open_database, writing
    from aisle.store.migrate import migrate
    from aisle.store.photos import Photo
    from aisle.store.predictions import PredictionRecord
    from aisle.store.schema import audit, feedback
    from aisle.store.schema import reviews as queue

    print("  filling the database", file=sys.stderr, flush=True)
    bundle = BundleStore(place.path / "models_path").find("champion")
    codes = [*predictions_of(bundle)]
    draw, now = random.Random(0), utc_now()  # noqa: S311
    words = [f"mot{zlib.crc32(str(number).encode()) % 9999}" for number in range(2_000)]

    def text(least: int, most: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(least, most)))

    def prediction(number: int) -> PredictionRecord:
        chosen = draw.sample(codes, 5)
        shares = sorted((draw.random() for _ in chosen), reverse=True)
        top = [
            {"code": code, "label": label, "confidence": share / sum(shares)}
            for (code, label), share in zip(chosen, shares, strict=True)
        ]
        return PredictionRecord(
            id=f"{number:032x}",
            created_at=now - timedelta(seconds=13 * (2 * MANY - number)),  # a month of them
            user_name="shop",
            input_hash=f"{number:064x}",
            designation=text(4, 14),
            description=text(0, 120),
            image_hash="0" * 64,
            predicted=chosen[0][0],
            confidence=shares[0] / sum(shares),
            top=top,
            decision="review",
            model_version=bundle.name,
            seconds=0.02,
        )

    def said(number: int) -> dict[str, Any]:
        return {
            "prediction_id": f"{number:032x}",
            "created_at": now - timedelta(seconds=7 * (MANY - number)),
            "user_name": draw.choice((NAME, "rita", "carl", "zoe")),
            "type_code": draw.choice(codes)[0],
        }

    def entry(number: int) -> dict[str, Any]:
        return {
            "at": now - timedelta(seconds=30 * (MANY - number)),
            "who": draw.choice((NAME, "rita", "carl", "zoe")),
            "what": draw.choice(("model.promote", "user.add", "user.role", "key.publish")),
            "subject": text(1, 2),
            "before": {"role": "client"},
            "after": {"role": "reviewer", "reason": text(2, 12)},
        }

    def photographed(connection: Connection) -> None:
        for lane in range(reviews.LANES):
            best = select(queue.c.prediction_id).where(queue.c.lane == lane, queue.c.doubt.is_not(None))
            ids = connection.execute(best.order_by(queue.c.doubt.desc()).limit(PHOTOS_A_LANE)).scalars()
            photos.add(connection, [Photo(one, now, draw.randbytes(PHOTO_BYTES)) for one in ids])

    engine = open_database(f"sqlite:///{place.path / DATABASE.removeprefix('sqlite:///')}")
    migrate(engine)
    for first in range(0, 2 * MANY, AT_ONCE):
        records = [prediction(number) for number in range(first, first + AT_ONCE)]
        with writing(engine) as connection:
            predictions.add(connection, records)
            reviews.enqueue(connection, records)
    for first in range(0, MANY, AT_ONCE):
        some = range(first, first + AT_ONCE)
        with writing(engine) as connection:
            connection.execute(insert(feedback), [said(number) for number in some])
            connection.execute(
                queue.update().where(queue.c.prediction_id.in_([f"{one:032x}" for one in some])).values(doubt=None)
            )
            connection.execute(insert(audit), [entry(number) for number in some])
    with writing(engine) as connection:
        photographed(connection)
    engine.dispose()


def predictions_of(bundle: Path) -> Iterator[tuple[str, str]]:
    """The code and the label of each type that a bundle may say."""
    from aisle.model.bundle import Bundle

    return ((one.code, one.label) for one in Bundle.load(bundle).types().values())


# On the server


@contextmanager
def _signed_in(site: _Site) -> Iterator[httpx.Client]:
    import httpx

    with httpx.Client(base_url=site.url, timeout=60, headers={"Accept-Language": "en"}) as client:
        csrf = _hidden(client.get("/console/sign-in").text, "csrf")
        answer = client.post("/console/sign-in", data={"csrf": csrf, "username": NAME, "password": site.password})
        assert answer.status_code == 303, answer.text
        yield client


def _hidden(html: str, name: str) -> str:
    return str(re.findall(rf'name="{name}" value="(\w+)"', html)[-1])


def _on_the_server(client: httpx.Client) -> list[Figure]:
    html = client.get(REVIEW).text

    def answered(**said: str) -> Callable[[], None]:
        def ask() -> None:
            nonlocal html
            form = {"csrf": _hidden(html, "csrf"), "id": _hidden(html, "id"), **said}
            answer = client.post(f"{REVIEW}/say", data=form, headers={"X-Part": "1"})
            assert answer.status_code == 200, answer.text
            html = answer.text

        return ask

    code = re.findall(r'name="type" value="(\w+)"', html)[0]
    figures = [
        *_spread("next_product", _times(answered(skip="1"))),
        *_spread("correction", _times(answered(type=code))),
    ]
    for name, address, deep in (
        ("corrections", CORRECTIONS, f"{CORRECTIONS}?before=1000"),
        ("audit", AUDIT, f"{AUDIT}?before=1000"),
    ):
        first, last = [], []
        for _ in range(TIMES):  # in turn
            first.append(_milliseconds(partial(_got, client, address)))
            last.append(_milliseconds(partial(_got, client, deep)))
        figures += [
            Figure(f"{name}_ms", median(first)),
            Figure(f"{name}_deep_over_first", median(last) / median(first), at_most=DEEP_RATIO),
        ]
    return figures


def _got(client: httpx.Client, address: str) -> bytes:
    answer = client.get(address)
    assert answer.status_code == 200, (address, answer.status_code)
    return answer.content


def _times(work: Callable[[], object]) -> list[float]:
    """Milliseconds of each time, after some to warm up."""
    return [_milliseconds(work) for _ in range(WARM_UP + TIMES)][WARM_UP:]


def _milliseconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1000


def _spread(name: str, times: Sequence[float]) -> list[Figure]:
    return [
        Figure(f"{name}_ms", median(times)),
        Figure(f"{name}_p95_ms", quantiles(times, n=20, method="inclusive")[-1]),
    ]


# In a browser


def _pages() -> list[str]:
    from aisle.console.asking import PLACES

    return [*(f"/console/{name}" for name, _ in PLACES), CORRECTIONS, f"{HEALTH}/suspects", COMPARE]


def _named(address: str) -> str:
    return address.removeprefix("/console/").replace("/", "_").replace("-", "_")


def _in_a_browser(site: _Site) -> list[Figure]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(base_url=site.url, locale="en-GB", viewport={"width": 1280, "height": 900})
        page.goto("/console/sign-in")
        page.get_by_label("Name").fill(NAME)
        page.get_by_label("Password").fill(site.password)
        page.keyboard.press("Enter")
        page.wait_for_selector("nav")
        one_key = _by_keys(page, lambda: page.keyboard.press("1"))
        two_keys = _by_keys(page, lambda: _search(page))
        paints = {address: median(_first_paints(page, address)) for address in _pages()}
        browser.close()
    return [
        *_spread("one_key", one_key),
        *_spread("two_keys", two_keys),
        *(Figure(f"{_named(at)}_first_paint_ms", ms, at_most=FIRST_PAINT_MS) for at, ms in paints.items()),
    ]


def _search(page: Page) -> None:
    """`/` and Enter: the first of all types."""
    page.keyboard.press("/")
    page.wait_for_selector("#found li")
    page.keyboard.press("Enter")


def _by_keys(page: Page, press: Callable[[], None]) -> list[float]:
    page.goto(REVIEW)
    page.evaluate(WATCH)
    for number in range(WARM_UP + TIMES):
        press()
        page.wait_for_function("count => window.taken.length > count", arg=number)
    found: list[float] = page.evaluate("window.taken")
    return found[WARM_UP:]


def _first_paints(page: Page, address: str) -> Iterator[float]:
    for number in range(1 + LOADS):
        page.goto(address)
        page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length")
        if number:  # the first one fetches style and script, too
            yield page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")


def _of_pages(client: httpx.Client) -> list[Figure]:
    """What every page weighs with style, script and mark, as it is sent; without photos of products."""
    figures = []
    for address in _pages():
        html = _got(client, address)
        assets = {one.decode() for one in re.findall(rb'(?:href|src)="(/console/static/[^"]+)"', html)}
        weight = len(html) + sum(len(_got(client, one)) for one in assets)
        figures.append(Figure(f"{_named(address)}_kb", weight / 1000, at_most=PAGE_KB))
    return figures

"""The console as people use it: a real Chromium, a mouse, a keyboard, with and without scripts.

`CONSOLE_PICTURES=FOLDER` keeps pictures of the pages there, as docs/console has them.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import os
import re
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from playwright.sync_api import Browser, Page, expect
from tests.auth.conftest import PASSWORD
from tests.console.chromium import barriers, chromium
from tests.console.conftest import PAGES, Site, start_site

from aisle.batch.worker import Worker
from aisle.data import raw
from aisle.data.images import ImageZip
from aisle.model.bundle import Bundle
from aisle.registry.bundles import BundleStore

pytestmark = pytest.mark.slow

WIDTHS = {360: 740, 1280: 900, 3840: 2160}
PHONE, TALLEST = 360, 1600
PICTURED = (PHONE, 1280)
PICTURES = Path(folder).resolve() if (folder := os.environ.get("CONSOLE_PICTURES")) else None
WAIT_MS = 120_000
expect.set_options(timeout=30_000)  # of a machine that has other tests to run, too
REVIEWED = 20
HIDDEN_BESIDE = "[...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth).length"
"""How many lists are wider than what is seen of them."""
SENT = 24


@pytest.fixture(scope="module")
def shop(
    bundle: Bundle, other_bundle: Bundle, sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Two versions, the catalogue that they learnt from, and products that the model is not sure of."""
    folder = tmp_path_factory.mktemp("shop")
    shutil.copytree(sample, folder / "data" / "raw")
    products = raw.read_products(sample / raw.TRAIN_FILE).drop_nulls("title").head(60)
    titles = products["title"].str.split(" ").list.head(2).list.join(" ")
    images = ImageZip(sample / raw.IMAGES_ZIP)
    photos = {
        title: base64.b64encode(images.read(stem)).decode() if stem else None
        for title, stem in zip(titles, raw.image_stems(products), strict=True)
    }
    with start_site(folder, [bundle, other_bundle]) as site:
        for title, image in photos.items():
            site.predict(designation=title, image=image)
        with working(site):
            anne = site.browser("anne")
            anne.get("/console/bulk")
            assert anne.post("/console/bulk", files=[("files", one) for one in some_products(sample)]).is_redirect
            yield site


def some_products(sample: Path) -> list[tuple[str, bytes]]:
    """A table of the sample catalogue's first products, and a zip of their photos."""
    table = pl.read_csv(sample / raw.TRAIN_FILE, infer_schema=False).head(SENT)
    stems = {stem for stem in raw.image_stems(raw.read_products(sample / raw.TRAIN_FILE).head(SENT)) if stem}
    packed = io.BytesIO()
    with zipfile.ZipFile(sample / raw.IMAGES_ZIP) as whole, zipfile.ZipFile(packed, "w") as some:
        for name in whole.namelist():
            if Path(name).stem in stems:
                some.writestr(name, whole.read(name))
    return [("autumn.csv", table.write_csv().encode()), ("photos.zip", packed.getvalue())]


@contextlib.contextmanager
def working(site: Site) -> Iterator[None]:
    """With a worker of batches beside."""
    stop, worker = threading.Event(), Worker(site.engine, site.settings)
    thread = threading.Thread(target=worker.work, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, shop: Site) -> Iterator[Page]:
    """Of an administrator who has signed in; whatever a page complains of fails the test."""
    context = browser.new_context(base_url=shop.url, locale="en-GB", viewport={"width": 1280, "height": 900})
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    sign_in(page, "anne")
    yield page
    context.close()
    assert not complaints


def sign_in(page: Page, name: str) -> None:
    page.goto("/")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Classify a product")


def test_a_photo_is_classified_and_the_answer_follows_the_text(page: Page, photo: bytes) -> None:
    page.get_by_label("Title").fill("Piscine")
    answer = page.locator("[data-answer]")
    expect(answer).to_contain_text("preview, not recorded")
    first = answer.locator(".first .label").inner_text()
    page.get_by_label("Title").fill("Console de jeux vidéo")
    expect(answer.locator(".first .label")).not_to_have_text(first)
    page.get_by_label("Photo of the product").set_input_files(
        {"name": "p.jpg", "mimeType": "image/jpeg", "buffer": photo}
    )
    expect(page.get_by_alt_text("The photo that was chosen")).to_be_visible()
    page.get_by_role("button", name="Classify").click()
    expect(page.get_by_role("img", name="Where the model looked")).to_be_visible()
    expect(answer).to_contain_text("recorded")
    answer.get_by_role("button").first.click()
    expect(answer).to_contain_text("Noted:")


def test_twenty_products_are_reviewed_by_keyboard_and_one_is_taken_back(page: Page) -> None:
    page.goto("/console/review")
    waiting = page.locator(".tiles strong").first
    before, product = int(waiting.inner_text()), page.locator(".product [data-focus]")
    for number in range(REVIEWED):
        page.keyboard.press("12"[number % 2])
        expect(waiting).to_have_text(str(before - number - 1))
    last = page.locator(".last-title").inner_text()
    page.keyboard.press("u")
    expect(product).to_have_text(last)
    expect(waiting).to_have_text(str(before - REVIEWED + 1))
    page.keyboard.press("/")
    page.keyboard.type("piscine")
    expect(page.get_by_role("option")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page.locator(".last")).to_contain_text("2583")
    shown = product.inner_text()
    page.keyboard.press("s")
    expect(product).not_to_have_text(shown)
    left = int(waiting.inner_text())
    page.locator(".choices button").first.dblclick()  # is meant once
    expect(waiting).to_have_text(str(left - 1))
    french = "new KeyboardEvent('keydown', {key: '&', code: 'Digit1', bubbles: true})"  # the key of 1, without Shift
    page.evaluate(f"document.body.dispatchEvent({french})")
    expect(waiting).to_have_text(str(left - 2))


def test_the_queue_shows_the_photo_of_the_product(page: Page) -> None:
    page.goto("/console/review")
    photo = page.get_by_alt_text("Photo of the product")
    for _ in range(10):  # a product may have none
        if photo.count():
            break
        page.keyboard.press("s")
        expect(page.locator("[data-review]:not(.stale)")).to_be_visible()
    expect(photo).to_be_visible()
    expect(photo).to_have_js_property("complete", value=True)
    assert photo.evaluate("image => image.naturalWidth") > 0


def test_a_table_is_dropped_watched_until_it_is_done_filtered_and_exported(page: Page, sample: Path) -> None:
    (name, table), (zip_name, photos) = some_products(sample)
    page.goto("/console/bulk")
    page.get_by_label("Table and zip of photos").set_input_files(
        {"name": zip_name, "mimeType": "application/zip", "buffer": photos}
    )
    dropped = page.evaluate_handle(
        "([name, text]) => { const all = new DataTransfer(); all.items.add(new File([text], name)); return all; }",
        [name, table.decode()],
    )
    page.dispatch_event("[data-drop]", "drop", {"dataTransfer": dropped})
    expect(page.locator("[data-chosen] li")).to_have_count(2)
    page.get_by_role("button", name="Classify the table").click()
    expect(page.locator("[data-watch]")).to_contain_text(f"{SENT} of {SENT} rows", timeout=WAIT_MS)
    expect(page.locator("[data-running]")).to_have_count(0, timeout=WAIT_MS)
    expect(page.locator(".glance img").first).to_have_js_property("naturalWidth", 128)
    page.get_by_label("Decision").select_option("review")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("#results")).to_contain_text(f"of {SENT} rows")
    assert "decision=review" in page.url
    with page.expect_download() as download:
        page.get_by_role("link", name="Export (CSV)").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert page.locator("#results").inner_text() == f"Result {len(rows)} of {SENT} rows"
    assert {row["decision"] for row in rows} == {"review"}


def test_the_gate_is_asked_and_a_promotion_is_undone(page: Page, shop: Site, bundle: Bundle) -> None:
    store = BundleStore(shop.settings.models_path)
    page.goto("/console/models")
    page.locator("#promote-reason").fill("better on pools")
    page.get_by_role("button", name="Promote").click()
    expect(page.locator("[data-watch]")).to_contain_text("The gate measures")
    expect(page.locator("[data-running]")).to_have_count(0, timeout=WAIT_MS)
    if store.serving().champion == bundle.version:  # as the gate had it
        expect(page.locator("[data-watch]")).to_contain_text("the gate refuses")
        page.locator("#promote-reason").fill("better on pools")
        page.get_by_label("Without asking the gate").check()
        page.get_by_role("button", name="Promote").click()
        expect(page.locator("[data-running]")).to_have_count(0, timeout=WAIT_MS)
    assert store.serving().before == (bundle.version,)
    page.locator("#rollback-reason").fill("it was worse on books")
    page.get_by_role("button", name="Roll back").click()
    expect(page.get_by_text("No model served before this one.")).to_be_visible(timeout=WAIT_MS)
    assert store.serving().champion == bundle.version
    page.goto("/console/audit")
    expect(page.get_by_role("table")).to_contain_text("it was worse on books")


def test_the_labels_are_audited_and_two_models_are_compared(page: Page, other_bundle: Bundle) -> None:
    """After which the other tests have the pages with what was found."""
    page.goto("/console/health")
    page.get_by_role("button", name="Audit the labels").click()
    expect(page.locator("[data-running]")).to_contain_text("The labels are being audited")
    expect(page.locator("[data-running]")).to_have_count(0, timeout=WAIT_MS)
    page.get_by_role("link", name="Label suspects").click()
    first = page.locator("tbody tr").first
    expect(first.locator("img")).to_be_visible()
    assert first.locator("img").evaluate("one => one.decode().then(() => one.naturalWidth)") > 0
    page.goto("/console/health")
    page.locator(".causes a").first.click()
    expect(page.locator("tbody tr").first).to_be_visible()
    page.goto("/console/models")
    page.get_by_role("link", name="Compare two models").click()
    expect(page.get_by_text("Not compared yet")).to_be_visible()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("Measured together on the same")).to_be_visible(timeout=WAIT_MS)
    page.locator("#show").select_option("now_wrong")
    page.locator("form[action*='#products']").get_by_role("button").click()
    expect(page.locator(".products .badge.bad").first).to_be_visible()
    page.get_by_role("link", name="Catalogue").click()
    expect(page.get_by_text("would change the type of")).to_be_visible()
    assert page.locator("#changes ~ ul code").all_inner_texts() == [other_bundle.version]


def test_without_a_script_everything_works(browser: Browser, shop: Site, photo: bytes) -> None:
    context = browser.new_context(base_url=shop.url, locale="en-GB", java_script_enabled=False)
    page = context.new_page()
    sign_in(page, "rita")
    page.get_by_label("Title").fill("Piscine")
    page.get_by_label("Photo of the product").set_input_files(
        {"name": "p.jpg", "mimeType": "image/jpeg", "buffer": photo}
    )
    page.get_by_role("button", name="Classify").click()
    expect(page.get_by_text("Nearest products learnt from")).to_be_visible()
    page.get_by_role("link", name="Review").click()
    before = int(page.locator(".tiles strong").first.inner_text())
    page.get_by_label("All types").select_option("2583")
    page.get_by_role("button", name="Confirm").click()
    expect(page.locator(".tiles strong").first).to_have_text(str(before - 1))
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    context.close()


@pytest.mark.parametrize("scheme", ["dark", pytest.param("light", marks=pytest.mark.soak)])
def test_no_page_shuts_anybody_out_or_is_wider_than_its_window(page: Page, shop: Site, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    for address in (*PAGES, _a_job(page), "/console/sign-in"):
        if address.endswith("sign-in"):
            page.context.clear_cookies()
        page.goto(address)
        if address.endswith("classify"):
            page.get_by_label("Title").fill("Piscine gonflable ronde")
            page.get_by_role("button", name="Classify").click()
            expect(page.get_by_text("Nearest products learnt from")).to_be_visible()
        assert not barriers(page), address
        for width, height in WIDTHS.items():
            page.set_viewport_size({"width": width, "height": height})
            spare = page.evaluate("document.documentElement.clientWidth - document.documentElement.scrollWidth")
            assert spare >= 0, (address, width)
            assert width != PHONE or not page.evaluate(HIDDEN_BESIDE), address
            _keep_a_picture(page, address, scheme, width)


def test_a_product_to_review_is_no_wider_than_a_phone(browser: Browser, shop: Site) -> None:
    """Where a finger points there are no keys to name."""
    context = browser.new_context(
        base_url=shop.url, locale="en-GB", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    sign_in(page, "rita")
    page.goto("/console/review")
    expect(page.locator(".choices kbd").first).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_nothing_shuts_anybody_out_where_there_is_nothing_and_in_french(browser: Browser, own_site: Site) -> None:
    """Signing in, a page that is not there, and all lists while they are empty."""
    context = browser.new_context(base_url=own_site.url, locale="fr-FR")
    page = context.new_page()
    page.goto("/console/sign-in")
    assert not barriers(page)
    page.locator("[name=username]").fill("anne")
    page.locator("[name=password]").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("navigation")).to_be_visible()
    for address in (*PAGES, "/console/nowhere"):
        page.goto(address)
        expect(page.locator("html")).to_have_attribute("lang", "fr")
        assert not barriers(page), address
    context.close()


def _a_job(page: Page) -> str:
    """The page of the one that was sent first."""
    page.goto("/console/bulk")
    address = page.get_by_role("link", name="autumn.csv").last.get_attribute("href")
    assert address
    page.goto(address)
    expect(page.locator("[data-running]")).to_have_count(0, timeout=WAIT_MS)
    return address


def _keep_a_picture(page: Page, address: str, scheme: str, width: int) -> None:
    if PICTURES is not None and width in PICTURED:
        name = re.sub("[0-9a-f]{32}", "job", address.removeprefix("/console/")).replace("/", "-")
        path = PICTURES / f"{name}-{scheme}-{width}.png"
        if width > PHONE:
            page.screenshot(path=path, full_page=True)
            return
        height = min(page.evaluate("document.documentElement.scrollHeight"), TALLEST)
        page.screenshot(path=path, full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height})


def test_the_first_paint_comes_soon(page: Page) -> None:
    """The promise is 300 ms on loopback; a busy machine of a test gets more."""
    for address in PAGES:
        page.goto(address)
        page.goto(address)
        painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
        assert painted is None or painted < 3000, (address, painted)

"""A real browser for tests: Debian's Chromium, driven by Playwright; axe-core finds what shuts people out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright
from tests.servers import find_program


@contextmanager
def chromium() -> Iterator[Browser]:
    """It opens our own pages only."""
    program = find_program("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        try:
            yield browser
        finally:
            browser.close()


def barriers(page: Page) -> list[str]:
    """What axe-core finds on a page, a line each. Its script comes past the page's policy, which would refuse it."""
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    found: dict[str, Any] = page.evaluate("axe.run()")
    return [f"{one['id']}: {json.dumps([node['target'] for node in one['nodes']])}" for one in found["violations"]]

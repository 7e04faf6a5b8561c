"""The built page, and Chromium that shows it."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.support import npm
from tests.support.browser import BROWSERS
from tests.support.deadlines import DEADLINE_S, SET_UP_S
from tests.support.running import ROOT, Running

SOURCES = ROOT / "magid/webui"
BUILT = SOURCES / "build"
# The browser prints it for each answer of 400 or more, and for each connection that is lost.
_NETWORK = "Failed to load resource"
_LOST = "net::ERR_"
POLL_MS = 20
expect.set_options(timeout=DEADLINE_S * 1000)


def build() -> Path:
    """The folder of the built page."""
    subprocess.run([ROOT / "packaging/page"], check=True, timeout=SET_UP_S)
    return BUILT


def give_to(magid: Running) -> None:
    """The daemon serves the built page from its next start on."""
    place = Path(magid.environment["MAGI_PAGE_DIR"])
    if not place.is_symlink():
        place.symlink_to(build())


@contextmanager
def chromium(*further: str) -> Iterator[Browser]:
    """Debian's Chromium, with further options. Its event loop is this thread's, until the end."""
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    assert program, "no Chromium: packaging/test-tools installs it"
    options = [*further, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=options)
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """One page. What it says on the console, and errors that nothing has caught, are kept."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.said: list[str] = []
        page.set_default_timeout(DEADLINE_S * 1000)
        page.on("console", self._keep)
        page.on("pageerror", lambda error: self.said.append(str(error)))

    def _keep(self, message: ConsoleMessage) -> None:
        if _NETWORK not in message.text and _LOST not in message.text:
            self.said.append(message.text)

    def open(self, view: str) -> "Tab":
        """Returns once the view is shown."""
        self.page.goto(f"{self.url}/#/{view}")
        # A handle of an element, as wait_for_selector returns, would hold the view in memory.
        self.page.locator("main[aria-busy=false] h1").first.wait_for()
        return self

    def sees(self, text: str, within: str = "main") -> None:
        """Waits until the text is shown."""
        self.page.locator(within).get_by_text(text).first.wait_for()

    def waits_until(self, script: str) -> None:
        """Waits until the expression is true in the page, whose policy lets nothing else poll."""
        deadline = time.monotonic() + DEADLINE_S
        while not self.page.evaluate(script):
            assert time.monotonic() < deadline, script
            self.page.wait_for_timeout(POLL_MS)


@contextmanager
def tab(browser: Browser, magid: Running, **options: Any) -> Iterator[Tab]:
    """A browser of its own, without anything kept, that shows the page."""
    context = browser.new_context(**options)
    try:
        yield Tab(context.new_page(), magid.url)
    finally:
        context.close()


def axe(page: Page) -> list[str]:
    """What axe-core finds wrong in the page as it is now."""
    modules = npm.installed(SOURCES)
    page.evaluate((modules / "axe-core/axe.min.js").read_text())
    found = page.evaluate("axe.run().then((found) => found.violations)")
    return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]

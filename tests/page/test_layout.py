"""The views on small and large screens: nothing is cut off, covered, crooked, or jumps."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.support import page
from tests.support.rest import BETA, Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

VIEWS = {  # view -> what it shows once it is whole
    "overview": "table[aria-label=Servers] td",
    "models": "td.col-name",
    f"models/{BETA}": ".field",
    "library": "table[aria-label='Models on the disk'] td",
    "profiles": "td.col-verbs .state",
    "profiles/test": "#models",
    "profiles/+new": "#models",
    "chat": "textarea",
    "activity": "main h1",
    "logs": ".lines div",
    "system": "#configuration",
}
ROWS = """() => {
  const high = getComputedStyle(document.documentElement).getPropertyValue("--row");
  return [...document.querySelectorAll("tbody tr:not(.gap)")]
    .filter((row) => Math.abs(row.getBoundingClientRect().height - parseFloat(high)) > 1)
    .map((row) => row.textContent);
}"""
COVERED = """() => [...document.querySelectorAll("nav a, .banner button")].filter((one) => {
  const { x, y, width, height } = one.getBoundingClientRect();
  const found = document.elementFromPoint(x + width / 2, y + height / 2);
  return found && !found.closest("header") && !one.contains(found);
}).map((one) => one.textContent)"""
CUT_SETTINGS = """() => [...document.querySelectorAll("td.col-setting code")]
  .filter((name) => name.scrollHeight > name.clientHeight + 1
    || name.getBoundingClientRect().right > name.closest("td").getBoundingClientRect().right)
  .map((name) => name.textContent)"""
COLUMNS = """() => [...document.querySelectorAll("th")]
  .map((one) => Math.round(one.getBoundingClientRect().width)).join(" ")"""


@pytest.mark.parametrize("width", [360, 800, 1280, 2560])
def test_no_view_scrolls_sideways_and_each_row_is_as_high(
    chromium: Browser, magid: Running, width: int
) -> None:
    with page.tab(chromium, magid, viewport={"width": width, "height": 800}) as tab:
        for view, there in VIEWS.items():
            tab.open(view)
            tab.page.wait_for_selector(there)
            wide = tab.page.evaluate("document.documentElement.scrollWidth")
            assert (view, wide) == (view, min(wide, width))
            assert (view, tab.page.evaluate(ROWS)) == (view, [])
        assert tab.said == []


@pytest.mark.parametrize("width", [400, 1280])
def test_columns_are_as_wide_whatever_rows_are_shown(
    chromium: Browser, magid: Running, width: int
) -> None:
    """As while a thousand rows are scrolled: only those on the screen are in the document."""
    with page.tab(chromium, magid, viewport={"width": width, "height": 800}) as tab:
        tab.open("models")
        rows = tab.page.locator("td.col-name")
        expect(rows).to_have_count(5)
        widths = tab.page.evaluate(COLUMNS)
        for state, count in (("disabled", 3), ("running", 2)):
            tab.page.get_by_label("State", exact=True).select_option(state)
            expect(rows).to_have_count(count)
            assert tab.page.evaluate(COLUMNS) == widths


def test_a_small_screen_has_whole_names_of_settings(chromium: Browser, magid: Running) -> None:
    """Cut off, `server_defaults.ctx_size` and `server_defaults.parallel` would be the same."""
    with page.tab(chromium, magid, viewport={"width": 400, "height": 800}) as tab:
        tab.open("system").page.wait_for_selector("td.col-setting")
        tab.sees("server_defaults.ctx_size")
        assert tab.page.evaluate(CUT_SETTINGS) == []


def test_the_banner_of_a_lost_connection_covers_nothing(
    chromium: Browser, parts: Parts, tmp_path: Path
) -> None:
    magid = parts.daemon(tmp_path)
    page.give_to(magid)
    with magid, magid.client, page.tab(chromium, magid) as tab:
        magid.wait_ready()
        tab.open("chat").sees("No models yet")
        tab.open("overview").sees("No models yet")
        magid.stop()
        tab.sees("No connection to magid", "body")
        for width in (400, 1280):
            tab.page.set_viewport_size({"width": width, "height": 360})
            for place in (0, 60, 10_000):
                tab.page.evaluate(f"scrollTo(0, {place})")
                assert (width, place, tab.page.evaluate(COVERED)) == (width, place, [])

"""Many tabs of one browser, which has six connections to a server for all of them."""

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.support.page import Tab
from tests.support.running import Running

pytestmark = pytest.mark.slow

TABS = 8  # more than there are connections

# What a tab is that was opened in the background, until it is looked at.
HIDDEN = "Object.defineProperty(document, 'hidden', { value: true, configurable: true })"
LOOKED_AT = "delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))"


def state(tab: Tab) -> Locator:
    return tab.page.locator(".log [role=status]")


def test_tabs_with_logs_leave_connections_to_others(chromium: Browser, magid: Running) -> None:
    context = chromium.new_context()
    try:
        logs = [Tab(context.new_page(), magid.url) for _ in range(TABS)]
        for tab in logs:
            tab.open("logs")
            expect(state(tab)).to_have_text("Following")
        other = Tab(context.new_page(), magid.url).open("system")
        expect(other.page.get_by_role("table", name="Configuration")).to_be_visible()
        for tab in logs[:-2]:
            expect(state(tab)).to_contain_text("other tabs follow logs")
        first, second, last = logs[0], logs[-2], logs[-1]
        first.page.get_by_role("button", name="Go on").click()  # as a look at the tab does
        expect(state(first)).to_have_text("Following")
        expect(state(second)).to_contain_text("other tabs follow logs")
        expect(state(last)).to_have_text("Following")
        first.open("overview")
        expect(state(second)).to_have_text("Following")
        last.page.goto("about:blank")  # as when a tab is closed
        expect(state(logs[-3])).to_have_text("Following")
        assert [tab.said for tab in (*logs, other)] == [[]] * (TABS + 1)
    finally:
        context.close()


def test_tabs_in_the_background_follow_no_log(chromium: Browser, magid: Running) -> None:
    context = chromium.new_context()
    try:
        seen = Tab(context.new_page(), magid.url).open("logs")
        expect(state(seen)).to_have_text("Following")
        behind = [Tab(context.new_page(), magid.url) for _ in range(2)]
        for tab in behind:
            tab.page.add_init_script(HIDDEN)
            tab.open("logs")
            expect(state(tab)).to_contain_text("Paused")
        expect(state(seen)).to_have_text("Following")
        seen.open("overview")
        other = Tab(context.new_page(), magid.url).open("logs")
        expect(state(other)).to_have_text("Following")  # by then the others know of both
        expect(state(behind[0])).to_contain_text("Paused")
        behind[0].page.evaluate(LOOKED_AT)
        expect(state(behind[0])).to_have_text("Following")
    finally:
        context.close()

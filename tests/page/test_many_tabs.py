"""Many tabs of one browser, which has six connections to a server for all of them."""

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.support.page import Tab
from tests.support.running import Running

pytestmark = pytest.mark.slow

TABS = 8  # more than there are connections


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

"""A page that stays open: what a view has made is gone when it is left."""

import pytest

from tests.support.page import Tab
from tests.support.rest import ALPHA
from tests.support.running import Running

pytestmark = pytest.mark.slow

VIEWS = (
    "models", f"models/{ALPHA}", "library", "profiles", "profiles/test", "chat", "activity",
    "logs", "system", "overview",
)  # fmt: skip
VISITS = 4
# By far less than a view has, times VISITS; the overview itself may have a row more.
MOST = {"nodes": 60, "jsEventListeners": 8}


def test_views_leave_no_nodes_and_no_listeners(tab: Tab, magid: Running) -> None:
    session = tab.page.context.new_cdp_session(tab.page)

    def visited(times: int) -> dict[str, int]:
        """What the document holds then; what only waits to be collected is not counted."""
        for _ in range(times):
            for view in VIEWS:
                tab.open(view)
        for _ in range(2):
            session.send("HeapProfiler.collectGarbage")
        found: dict[str, int] = session.send("Memory.getDOMCounters")
        return found

    before = visited(2)  # the first time loads the views
    after = visited(VISITS)
    for name, most in MOST.items():
        assert after[name] - before[name] <= most, (name, before, after)

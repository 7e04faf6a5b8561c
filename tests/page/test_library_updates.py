"""The library: newer files at the hub, which is asked when a person presses the button."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.support import ggufs, page
from tests.support.hub import ModelHub
from tests.support.library_page import TINY, empty, press, pulled
from tests.support.page import Tab
from tests.support.running import Running

pytestmark = pytest.mark.slow

NAME = "tiny-Q8_0.gguf"
LOOK = "Look for newer files"


@pytest.fixture(scope="module")
def magid(library: Running) -> Running:
    return library


@pytest.fixture(autouse=True)
def as_before(magid: Running, hub: ModelHub) -> Iterator[None]:
    files = hub.repositories[TINY].files
    content = files[NAME]
    yield
    files[NAME] = content
    empty(magid, hub)


def test_newer_files_are_looked_for_and_got(
    tab: Tab, magid: Running, hub: ModelHub, tmp_path: Path
) -> None:
    pulled(magid, f"{TINY}:Q8_0")
    magid.wait_for("the model", lambda: bool(magid.get("/api/models/registry")["models"]))
    asked = len(hub.asked)
    tab.open("library")
    tab.sees("The hub is asked when you press the button")
    assert len(hub.asked) == asked
    press(tab, LOOK)
    tab.sees("0 models with newer files, 1 as at the hub")
    newer = ggufs.write_chat_model(tmp_path / NAME, name="Tiny", context=1 << 10).read_bytes()
    hub.repositories[TINY].files[NAME] = newer
    press(tab, LOOK)
    tab.sees("1 model with newer files, 0 as at the hub")
    row = tab.page.get_by_role("table", name="Newer files").locator("tbody tr")
    expect(row).to_contain_text(NAME)
    assert page.axe(tab.page) == []
    press(tab, "Download", row)
    expect(row).to_contain_text("Downloaded")
    assert (magid.models / TINY / NAME).read_bytes() == newer
    press(tab, LOOK)
    tab.sees("0 models with newer files, 1 as at the hub")


def test_a_hub_that_is_away_is_said(tab: Tab, magid: Running, hub: ModelHub) -> None:
    pulled(magid, f"{TINY}:Q8_0")
    magid.wait_for("the model", lambda: bool(magid.get("/api/models/registry")["models"]))
    content = hub.repositories.pop(TINY)
    try:
        tab.open("library")
        press(tab, LOOK)
        row = tab.page.get_by_role("table", name="Newer files").locator("tbody tr")
        expect(row).to_contain_text("cannot")
        expect(row.get_by_role("button")).to_have_count(0)
    finally:
        hub.repositories[TINY] = content

"""The library for each kind of caller, by keyboard, and on each screen."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.support import page
from tests.support.hub import ModelHub
from tests.support.library_page import (
    DOWNLOADS,
    TINY,
    cards,
    daemon,
    empty,
    finished,
    held,
    hold,
    on_disk,
    press,
    pull,
    pulled,
    variants,
    write_eyes,
)
from tests.support.page import Tab
from tests.support.rest import Parts
from tests.support.running import Running
from tests.support.token_daemons import SECRETS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def magid(library: Running) -> Running:
    return library


@pytest.fixture(autouse=True)
def as_before(magid: Running, hub: ModelHub) -> Iterator[None]:
    yield
    empty(magid, hub)


@pytest.fixture(scope="module")
def guarded(
    parts: Parts, hub: ModelHub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """It needs a token, and has a download that is paused and one that is done."""
    running = daemon(parts, hub, tmp_path_factory.mktemp("guarded"), with_tokens=True)
    with running, running.client:
        running.wait_ready()
        pulled(running, f"{TINY}:Q8_0")
        running.ask("POST", f"{DOWNLOADS}/{held(running, hub)}/pause")
        yield running


def signed_in(tab: Tab, kind: str) -> None:
    tab.page.goto(f"{tab.url}/#/library")
    tab.page.locator("#token").fill(SECRETS[kind])
    tab.page.get_by_role("button", name="Sign in").click()


def test_one_who_reads_sees_all_and_gets_no_buttons(chromium: Browser, guarded: Running) -> None:
    with page.tab(chromium, guarded) as tab:
        signed_in(tab, "read")
        expect(cards(tab)).to_contain_text("25 %")
        expect(finished(tab)).to_have_count(1)
        expect(on_disk(tab)).to_have_count(1)
        expect(tab.page.get_by_role("main").get_by_role("button")).to_have_text(["Look again"])
        expect(tab.page.get_by_role("main").get_by_role("textbox")).to_have_count(0)
        finished(tab).get_by_role("link").click()
        tab.sees("apache-2.0")
        expect(tab.page.get_by_role("button", name="Remove the files")).to_have_count(0)
        assert tab.said == []


@pytest.mark.parametrize("kind", ["infer", "small"])
def test_one_who_asks_models_has_no_library(chromium: Browser, guarded: Running, kind: str) -> None:
    with page.tab(chromium, guarded) as tab:
        signed_in(tab, kind)
        names = tab.page.get_by_role("navigation").get_by_role("link")
        expect(names).to_have_text(["Chat"])
        assert TINY not in tab.page.content()


def test_signed_out_nothing_of_it_shows(chromium: Browser, guarded: Running) -> None:
    with page.tab(chromium, guarded) as tab:
        signed_in(tab, "admin")
        expect(cards(tab).get_by_role("button")).to_have_text(["Go on", "Cancel"])
        tab.page.get_by_role("button", name="Sign out").click()
        expect(tab.page.locator("#token")).to_be_visible()
        assert "Tiny" not in tab.page.content()


def test_all_of_it_by_keyboard(tab: Tab, magid: Running, hub: ModelHub) -> None:
    keys = tab.page.keyboard
    tab.open("library")
    tab.page.get_by_role("textbox", name="Repository").focus()
    keys.type(TINY)
    keys.press("Enter")
    row = tab.page.get_by_role("table", name="Variants").locator("tr", has_text="F16")
    expect(row).to_be_visible()
    hold(hub)
    button = row.get_by_role("button")
    tab_to(tab, button)
    keys.press("Enter")
    expect(button).to_have_text("Downloading")
    expect(button).to_be_focused()
    pause, cancel = cards(tab).get_by_role("button").all()
    tab_to(tab, pause)
    keys.press("Space")
    expect(pause).to_have_text("Go on")
    expect(pause).to_be_focused()
    tab_to(tab, cancel)
    keys.press("Enter")
    expect(tab.page.get_by_role("dialog")).to_be_visible()
    keys.press("Escape")
    expect(tab.page.get_by_role("dialog")).to_have_count(0)
    expect(cancel).to_be_focused()
    keys.press("Enter")
    tab_to(tab, tab.page.get_by_role("dialog").get_by_role("button", name="Remove"))
    keys.press("Enter")
    expect(cards(tab)).to_have_count(0)
    expect(tab.page.get_by_role("heading", name="Downloads")).to_be_focused()


def tab_to(tab: Tab, wanted: Locator) -> None:
    for _ in range(30):
        if wanted.evaluate("(one) => one === document.activeElement"):
            return
        tab.page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not reach {wanted}")


def test_axe_finds_nothing_where_all_is_shown(
    chromium: Browser, magid: Running, hub: ModelHub
) -> None:
    """Nor is anything wider: variants, downloads of each kind, files, a question."""
    write_eyes(magid)
    (magid.models / ("n" * 90 + ".tar")).write_bytes(bytes(3 << 20))
    pulled(magid, f"{TINY}:Q8_0")
    pull(magid, f"{TINY}:Q2_K")
    held(magid, hub)
    for theme in ("light", "dark"):
        for width in (360, 1280, 2560):
            size = {"width": width, "height": 900}
            with page.tab(chromium, magid, color_scheme=theme, viewport=size) as tab:
                tab.open("library")
                expect(variants(tab)).to_have_count(3)
                expect(finished(tab)).to_have_count(1)
                expect(on_disk(tab)).to_have_count(3)
                wide = tab.page.evaluate("document.documentElement.scrollWidth")
                assert (page.axe(tab.page), wide) == ([], width), (theme, width)
                press(tab, "Remove", on_disk(tab).first)
                expect(tab.page.get_by_role("dialog")).to_be_visible()
                assert page.axe(tab.page) == [], (theme, width)
                assert tab.said == []

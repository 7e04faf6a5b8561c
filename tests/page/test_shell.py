"""The page's frame and its overview, against a real daemon with real llama-servers."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.support import page, rest
from tests.support.page import Tab
from tests.support.rest import ALPHA, BETA, Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow


def test_the_overview_shows_what_runs(tab: Tab, magid: Running) -> None:
    tab.open("overview")
    tab.sees("Serving")
    tab.sees("2 servers ready")
    tab.sees("5 models")
    shown = tab.page.locator("table[aria-label=Servers] tbody tr")
    expect(shown).to_have_count(2)
    for server in magid.servers().values():
        line = shown.filter(has_text=server["displayName"])
        expect(line).to_contain_text("Ready")
        expect(line).to_contain_text(server["tier"])
        expect(line).to_contain_text(str(server["port"]))
    tab.sees("main memory")


def test_it_follows_what_happens(tab: Tab, magid: Running) -> None:
    tab.open("overview")
    card = tab.page.locator(".figure-card")
    answered = card.filter(has_text="Answered").locator(".value")
    before = int(answered.inner_text())
    body = {"model": ALPHA, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
    magid.client.post("/v1/chat/completions", json=body).raise_for_status()
    expect(answered).to_have_text(str(before + 1))
    speed = card.filter(has_text="Tokens a second").locator(".value")
    expect(speed).not_to_have_text(re.compile(r"^(0[.,]0|\u2013|NaN)$"))
    line = card.filter(has_text="Tokens a second").locator(".line path")
    expect(line).to_have_attribute("d", re.compile(r",(?!38\.0)"))  # not all at the bottom
    magid.ask("POST", f"/api/models/servers/{BETA}/stop?wait=60")
    tab.sees("1 server ready")
    magid.ask("POST", f"/api/models/servers/{BETA}/start?wait=60")
    tab.sees("2 servers ready")


def test_problems_come_with_what_to_do(tab: Tab, magid: Running) -> None:
    broken = magid.models / "Broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    magid.ask("POST", "/api/models/rescan")
    tab.open("overview")
    tab.sees("Broken.gguf")
    broken.unlink()
    magid.ask("POST", "/api/models/rescan")
    expect(tab.page.get_by_text("Broken.gguf")).to_have_count(0)


def test_pending_changes_are_applied_from_it(tab: Tab, magid: Running) -> None:
    magid.ask("PUT", f"/api/models/{BETA}/enabled", {"enabled": False})
    tab.open("overview")
    tab.page.get_by_role("button", name="Apply now").click()
    tab.sees("1 server ready")
    magid.ask("PUT", f"/api/models/{BETA}/enabled", {"enabled": None})
    tab.page.get_by_role("button", name="Apply now").click()
    tab.sees("2 servers ready")
    rest.forget_overrides(magid)


def test_a_later_tab_sees_what_happens_from_then_on(tab: Tab, magid: Running) -> None:
    tab.open("overview")
    tab.sees("2 servers ready")
    later = Tab(tab.page.context.new_page(), magid.url).open("overview")
    later.sees("2 servers ready")
    body = {"model": ALPHA, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
    magid.client.post("/v1/chat/completions", json=body).raise_for_status()
    speed = later.page.locator(".figure-card").filter(has_text="Tokens a second").locator(".value")
    expect(speed).not_to_have_text(re.compile(r"^(0[.,]0|\u2013|NaN)$"))
    assert later.said == []


def listeners(magid: Running) -> float:
    text = magid.client.get("/metrics").text
    (line,) = re.findall(r"^magi_events_listeners (\S+)$", text, re.MULTILINE)
    return float(line)


def test_tabs_share_one_stream(chromium: Browser, magid: Running) -> None:
    with page.tab(chromium, magid) as first:
        first.open("overview")
        others = [Tab(first.page.context.new_page(), magid.url) for _ in range(8)]
        for other in others:
            other.open("overview")
            other.sees("2 servers ready")
        assert listeners(magid) == 1
        assert [tab.said for tab in (first, *others)] == [[]] * 9


def test_a_restart_of_magid_leaves_no_error(
    chromium: Browser, parts: Parts, tmp_path: Path
) -> None:
    with rest.serving(parts, tmp_path) as magid:
        magid.stop()
        page.give_to(magid)
        magid.start()
        magid.wait_ready()
        with page.tab(chromium, magid) as tab:
            tab.open("overview")
            tab.sees("2 servers ready")
            magid.stop()
            tab.sees("No connection to magid", "body")
            tab.sees("Connection lost", "header")
            magid.start()
            tab.sees("Live", "header")
            expect(tab.page.get_by_role("alert")).to_have_count(0)
            tab.sees("2 servers ready")
            assert tab.said == []


def test_colours_are_kept(tab: Tab) -> None:
    tab.open("overview")
    ground = "getComputedStyle(document.body).backgroundColor"
    button = tab.page.get_by_role("button", name="Colours")
    light = tab.page.evaluate(ground)
    button.click()
    button.click()
    expect(tab.page.locator("html")).to_have_attribute("data-theme", "dark")
    dark = tab.page.evaluate(ground)
    assert dark != light
    tab.page.reload()
    tab.page.wait_for_selector("main h1")
    assert tab.page.evaluate(ground) == dark


def test_it_works_by_keyboard(tab: Tab) -> None:
    tab.open("overview")
    tab.page.keyboard.press("Tab")
    assert focused(tab) == "Skip to content"
    tab.page.keyboard.press("Enter")
    assert tab.page.evaluate("document.activeElement.id") == "main"
    tab.page.evaluate("document.activeElement.blur()")
    reached = [press(tab) for _ in range(12)]
    assert "Models" in reached


def focused(tab: Tab) -> str:
    return str(tab.page.evaluate("document.activeElement.textContent"))


def press(tab: Tab) -> str:
    tab.page.keyboard.press("Tab")
    return focused(tab)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing(chromium: Browser, magid: Running, theme: str, width: int) -> None:
    size = {"width": width, "height": 800}
    with page.tab(chromium, magid, color_scheme=theme, viewport=size) as tab:
        tab.open("overview")
        tab.sees("2 servers ready")
        assert page.axe(tab.page) == []
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width

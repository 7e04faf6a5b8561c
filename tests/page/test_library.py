"""The library: models are got by name, and downloads followed; with a hub on loopback."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.support import page
from tests.support.hub import ModelHub
from tests.support.library_page import (
    DOWNLOADS,
    QUARTER,
    TINY,
    cards,
    daemon,
    download,
    empty,
    finished,
    held,
    hold,
    on_disk,
    press,
    pull,
    variants,
)
from tests.support.page import Tab
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def magid(library: Running) -> Running:
    return library


@pytest.fixture(autouse=True)
def as_before(magid: Running, hub: ModelHub) -> Iterator[None]:
    yield
    empty(magid, hub)


def test_an_empty_library_says_what_to_do(tab: Tab) -> None:
    tab.open("library")
    tab.sees("No downloads yet")
    tab.sees("magictl pull")
    tab.sees("No models on the disk")
    tab.sees("Get one above")
    tab.open("models")
    tab.page.get_by_role("main").get_by_role("link", name="Library").click()
    tab.sees("Get a model")


def test_a_model_is_got_by_name(tab: Tab, magid: Running, hub: ModelHub) -> None:
    tab.open("library")
    rows = variants(tab)
    expect(rows).to_have_count(3)  # the smallest first
    expect(rows.nth(0)).to_contain_text("Q8_0")
    expect(rows.nth(1)).to_contain_text("3.9 MiB")
    expect(rows.nth(1)).to_contain_text("On processor")
    expect(rows.nth(2)).to_contain_text("No disk space")
    tab.sees(f"commit {hub.repositories[TINY].commit[:10]}, licence apache-2.0")
    press(tab, "Download Q8_0", rows.nth(0))
    expect(finished(tab)).to_have_count(1)
    expect(rows.nth(0).get_by_role("link", name="Here")).to_be_visible()
    expect(on_disk(tab)).to_have_count(1)
    finished(tab).get_by_role("link", name="tiny-Q8_0").click()
    came = tab.page.get_by_role("region", name="Where it comes from")
    for text in (hub.url, hub.repositories[TINY].commit, "apache-2.0", "tiny-Q8_0.gguf"):
        expect(came).to_contain_text(text)
    link = came.get_by_role("link", name=TINY)
    commit = hub.repositories[TINY].commit
    expect(link).to_have_attribute("href", f"{hub.url}/{TINY}/tree/{commit}")
    expect(link).to_have_attribute("rel", "noopener noreferrer")


def test_the_list_may_be_removed_and_the_model_stays(tab: Tab, magid: Running) -> None:
    pull(magid, f"{TINY}:Q8_0")
    tab.open("library")
    press(tab, "Remove", finished(tab).first)
    expect(finished(tab)).to_have_count(0)
    assert magid.get(DOWNLOADS)["downloads"] == []
    expect(on_disk(tab)).to_have_count(1)


def test_what_cannot_be_listed_says_why(tab: Tab) -> None:
    tab.open("library")
    problem = tab.page.locator("#source-problem")
    variants(tab, "org/None")
    expect(problem).to_contain_text("org/None")
    variants(tab, "<b>nonsense</b>")
    expect(problem).to_contain_text("it should begin with ORG/REPOSITORY")
    expect(tab.page.get_by_role("textbox", name="Repository")).to_have_attribute(
        "aria-invalid", "true"
    )
    variants(tab, "org/Text")
    tab.sees("org/Text has no GGUF models")
    expect(problem).to_have_text("")


def test_a_download_is_paused_continued_and_cancelled(
    tab: Tab, magid: Running, hub: ModelHub
) -> None:
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    tab.open("library")
    tab.sees("No downloads yet")
    job_id = held(magid, hub)  # by another client
    card = cards(tab)
    expect(card).to_contain_text("1.0 MiB of 3.9 MiB")
    expect(card).to_contain_text("25 %")
    bar = card.get_by_role("progressbar")
    expect(bar).to_have_js_property("value", 0.25)
    press(tab, "Pause", card)
    expect(card).to_contain_text("Paused")
    assert download(magid, job_id)["state"] == "paused"
    hold(hub)
    press(tab, "Go on", card)
    expect(card).to_contain_text("Downloading")
    expect(card).to_contain_text("50 %")
    press(tab, "Cancel", card)
    dialog = tab.page.get_by_role("dialog")
    expect(dialog).to_contain_text("2.0 MiB that have come are removed")
    press(tab, "Cancel", dialog)
    assert download(magid, job_id)["doneBytes"] == 2 * QUARTER
    press(tab, "Cancel", card)
    press(tab, "Remove", dialog)
    expect(card).to_have_count(0)
    assert magid.get(DOWNLOADS)["downloads"] == []
    assert [one for one in asked if one.startswith(f"GET {magid.url}{DOWNLOADS}")] == []


def test_rate_and_rest_are_live(tab: Tab, magid: Running, hub: ModelHub) -> None:
    released = threading.Event()

    def slowly(count: int) -> None:
        released.wait(count / 200_000)  # bytes a second

    hub.speed = slowly
    tab.open("library")
    pull(magid, f"{TINY}:F16")
    card = cards(tab)
    expect(card).to_contain_text(re.compile(r"[KM]iB/s"))
    expect(card).to_contain_text(re.compile(r"\d+ (s|min) left"))
    released.set()
    expect(finished(tab)).to_have_count(1)
    expect(card).to_have_count(0)


def test_a_failure_says_why_and_may_be_tried_again(tab: Tab, magid: Running) -> None:
    pull(magid, f"{TINY}:Q2_K")
    tab.open("library")
    card = cards(tab)
    expect(card.locator(".problem")).to_contain_text("it has Q8_0")
    press(tab, "Go on", card)
    expect(card).to_contain_text("Failed")
    press(tab, "Remove", card)
    tab.sees("No downloads yet")


def test_what_others_remove_goes(tab: Tab, magid: Running, hub: ModelHub) -> None:
    job_id = held(magid, hub)
    tab.open("library")
    expect(cards(tab)).to_have_count(1)
    magid.ask("DELETE", f"{DOWNLOADS}/{job_id}")
    expect(cards(tab)).to_have_count(0)


def test_a_restart_of_magid_under_it(
    chromium: Browser, parts: Parts, hub: ModelHub, tmp_path: Path
) -> None:
    with (
        daemon(parts, hub, tmp_path / "magid") as magid,
        magid.client,
        page.tab(chromium, magid) as tab,
    ):
        tab.open("library")
        held(magid, hub)
        expect(cards(tab)).to_contain_text("25 %")
        magid.kill()
        hub.faults.clear()
        tab.sees("No connection to magid", "body")
        magid.start()
        tab.sees("Live", "header")
        expect(tab.page.get_by_role("alert").filter(has_text=re.compile("."))).to_have_count(0)
        expect(finished(tab)).to_have_count(1)  # it went on by itself
        others = tab.page.get_by_role("table", name="Files of no model")
        expect(others).to_contain_text("tiny-F16.gguf")
        assert tab.said == []

"""The capture of texts on the page: asked for, said in each view, read as text, and ended."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.page.test_injection import ATTACKS, WATCH, check
from tests.page.test_sign_in import sign_in
from tests.support import ggufs, page, token_daemons
from tests.support.page import Tab
from tests.support.rest import Parts
from tests.support.running import Running
from tests.support.token_daemons import SECRETS

pytestmark = pytest.mark.slow

CAPTURE = "/api/capture"
VIEWS = ("overview", "models", "profiles", "chat", "activity", "logs", "system")


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One model, whose answer is markup."""
    running = token_daemons.with_tokens(parts, tmp_path_factory.mktemp("capture"))
    page.give_to(running)
    path = running.models / "Alpha-Q4_0.gguf"
    ggufs.write_chat_model(path, name="Alpha", quantization="Q4_0", answer=ATTACKS["answer"])
    (running.profiles / "test.yaml").write_text("name: Test\nenabled_models: ['*']\n")
    with running, running.client:
        running.wait_ready()
        yield running


@pytest.fixture(autouse=True)
def ended(magid: Running) -> Iterator[None]:
    yield
    magid.ask("DELETE", CAPTURE)


def say(magid: Running, text: str) -> str:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], "stream": True}
    answer = magid.client.post("/v1/chat/completions", json=body).raise_for_status()
    return str(answer.headers["x-request-id"])


def test_texts_are_captured_shown_as_text_and_dropped(tab: Tab, magid: Running) -> None:
    before = say(magid, "before")
    tab.page.add_init_script(WATCH)
    sign_in(tab, SECRETS["admin"])
    tab.sees("1 server ready")
    tab.open("activity")
    banner = tab.page.locator(".banner")
    expect(banner).to_have_count(0)
    tab.page.get_by_role("button", name="Capture texts").click()
    dialog = tab.page.get_by_role("dialog")
    expect(dialog).to_contain_text("the log has your name")
    dialog.get_by_role("button", name="Capture", exact=True).click()
    expect(banner).to_contain_text(re.compile("Texts are captured until .*administrators can read"))
    assert magid.get(CAPTURE)["on"] is True

    captured = say(magid, ATTACKS["prompt"])
    tab.page.get_by_role("button", name=f"Details of {captured}").click()
    expect(dialog.get_by_label("Asked", exact=True).last).to_have_text(f"user: {ATTACKS['prompt']}")
    expect(dialog.get_by_label("Answered", exact=True).last).to_have_text(ATTACKS["answer"])
    dialog.get_by_text("As it was sent").last.click()
    expect(dialog).to_contain_text('data: {"')
    check(tab, "a captured text")
    assert page.axe(tab.page) == []
    dialog.get_by_role("button", name="Close").click()

    tab.page.get_by_role("button", name=f"Details of {before}").click()
    expect(dialog).to_contain_text("Its texts were not captured")
    tab.page.keyboard.press("Escape")
    for view in VIEWS:
        tab.open(view)
        expect(banner).to_contain_text("Texts are captured")
        tab.sees("Texts captured", "header")
    banner.get_by_role("button", name="End and drop them").click()
    expect(banner).to_have_count(0)
    assert magid.get(CAPTURE) == {
        "on": False, "until": None, "bytes": 0, "maxBytes": 2**24, "dropped": 0, "requests": [],
    }  # fmt: skip
    tab.open("activity")
    tab.page.get_by_role("button", name=f"Details of {captured}").click()
    expect(dialog).to_contain_text("/v1/chat/completions")
    assert ATTACKS["prompt"] not in tab.page.locator("body").inner_text()


def test_who_only_reads_is_told_and_reads_none(tab: Tab, magid: Running) -> None:
    sign_in(tab, SECRETS["read"])
    tab.sees("1 server ready")
    magid.ask("POST", CAPTURE, {"seconds": 600})
    request = say(magid, "a secret")
    banner = tab.page.locator(".banner")
    expect(banner).to_contain_text("Texts are captured")
    expect(banner.get_by_role("button")).to_have_count(0)
    tab.open("activity")
    expect(tab.page.get_by_role("button", name="Capture")).to_have_count(0)
    tab.page.get_by_role("button", name=f"Details of {request}").click()
    expect(tab.page.get_by_role("dialog")).to_contain_text("/v1/chat/completions")
    assert "a secret" not in tab.page.content()
    magid.ask("DELETE", CAPTURE)
    expect(banner).to_have_count(0)


def test_who_only_chats_is_told_too(tab: Tab, magid: Running) -> None:
    """Without a stream of events: with the next answer, and when the chat is opened."""
    sign_in(tab, SECRETS["infer"])
    tab.page.get_by_label("Message").wait_for()
    banner = tab.page.locator(".banner")
    expect(banner).to_have_count(0)
    magid.ask("POST", CAPTURE, {"seconds": 600})
    tab.page.get_by_label("Message").fill("Hello")
    tab.page.keyboard.press("Enter")
    expect(banner).to_contain_text("Texts are captured")
    tab.page.reload()
    expect(banner).to_contain_text("Texts are captured")
    expect(banner.get_by_role("button")).to_have_count(0)


def test_it_is_said_on_small_screens_and_in_both_colours(chromium: Browser, magid: Running) -> None:
    magid.ask("POST", CAPTURE, {"seconds": 600})
    request = say(magid, "A long text. " * 8)
    for width, theme in ((360, "light"), (360, "dark"), (1280, "dark"), (2560, "light")):
        size = {"width": width, "height": 800}
        with page.tab(chromium, magid, color_scheme=theme, viewport=size) as tab:
            sign_in(tab, SECRETS["admin"])
            tab.sees("1 server ready")
            tab.open("activity")
            tab.page.get_by_role("button", name=f"Details of {request}").click()
            tab.page.get_by_role("dialog").get_by_label("Answered").first.wait_for()
            assert page.axe(tab.page) == [], (width, theme)
            assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
            assert tab.said == []

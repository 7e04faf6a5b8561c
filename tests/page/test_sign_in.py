"""The page where tokens are needed: signed out, and signed in with each kind of token."""

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.support import page, rest, token_daemons
from tests.support.page import Tab
from tests.support.rest import ALPHA, BETA, Parts
from tests.support.running import Running
from tests.support.token_daemons import SECRETS, UNKNOWN

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = token_daemons.with_tokens(parts, tmp_path_factory.mktemp("tokens"))
    page.give_to(running)
    rest.write_models(running.models)
    with running, running.client:
        running.wait_ready()
        yield running


def sign_in(tab: Tab, token: str) -> None:
    tab.page.goto(tab.url)
    tab.page.locator("#token").fill(token)
    tab.page.get_by_role("button", name="Sign in").click()


def test_signed_out_it_shows_nothing_but_the_form(tab: Tab) -> None:
    tab.page.goto(f"{tab.url}/#/models")
    expect(tab.page.locator("#token")).to_be_focused()
    expect(tab.page.get_by_role("navigation")).to_have_count(0)
    assert ALPHA not in tab.page.content()
    assert page.axe(tab.page) == []


WRONG = {"unknown": UNKNOWN, "expired": SECRETS["expired"], "none": "nothing", "HTML": "<b>x</b>"}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_token_is_refused_with_the_reason(tab: Tab, kind: str) -> None:
    sign_in(tab, WRONG[kind])
    expect(tab.page.get_by_role("alert")).to_contain_text("unknown, revoked or expired")
    expect(tab.page.get_by_role("navigation")).to_have_count(0)


def test_an_administrator_signs_in_and_out_in_all_tabs(tab: Tab, magid: Running) -> None:
    sign_in(tab, SECRETS["admin"])
    tab.sees("2 servers ready")
    tab.sees("admin", "header")
    kept = tab.page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
    assert SECRETS["admin"] not in kept
    assert "magi" not in json.loads(kept)[2]
    other = Tab(tab.page.context.new_page(), magid.url).open("models")
    row = other.page.locator("tbody tr").filter(has_text="BETA")
    row.get_by_role("button", name="Restart").click()
    expect(row).to_contain_text("Ready")
    tab.page.reload()
    tab.sees("2 servers ready")
    tab.page.get_by_role("button", name="Sign out").click()
    for one in (tab, other):
        expect(one.page.locator("#token")).to_be_visible()
        assert "BETA" not in one.page.content()


def test_one_who_reads_gets_no_buttons(tab: Tab) -> None:
    sign_in(tab, SECRETS["read"])
    tab.sees("Read only", "header")
    names = tab.page.get_by_role("navigation").get_by_role("link")
    views = ["Overview", "Models", "Library", "Profiles", "Activity", "Logs", "System"]
    expect(names).to_have_text(views)
    for view, there in (
        ("models", "td.col-name"),
        (f"models/{BETA}", ".field"),
        ("library", "table[aria-label='Models on the disk'] td"),
        ("profiles", "td.col-name"),
        ("profiles/test", "#models"),
        ("system", "#usage"),
    ):
        tab.open(view)
        tab.page.wait_for_selector(there)
        shown = set(tab.page.get_by_role("main").get_by_role("button").all_inner_texts())
        allowed = {"", "Model", "State", "Tier", "Runs on", "File", "Fits", "Memory", "Context",
                   "Up for", "Pause", "Look again", "Form", "YAML", "Settings"}  # fmt: skip
        assert {text.strip() for text in shown} <= allowed, view
        expect(tab.page.get_by_role("main").locator("form input:not([disabled])")).to_have_count(0)


def test_one_who_asks_models_gets_the_chat(tab: Tab) -> None:
    sign_in(tab, SECRETS["infer"])
    names = tab.page.get_by_role("navigation").get_by_role("link")
    expect(names).to_have_text(["Chat"])
    tab.page.get_by_role("combobox", name="Model").select_option(ALPHA)
    tab.page.get_by_label("Message").fill("Hello")
    tab.page.get_by_role("button", name="Send").click()
    expect(tab.page.get_by_role("article", name="Model")).to_contain_text("a second")


def test_a_revoked_token_ends_what_is_open(tab: Tab, magid: Running) -> None:
    token = magid.make_token("short", "read")
    sign_in(tab, token)
    tab.sees("2 servers ready")
    magid.ask("DELETE", "/api/tokens/short")
    expect(tab.page.locator("#token")).to_be_visible()


def test_tokens_are_made_and_revoked_on_it(chromium: Browser, magid: Running) -> None:
    with page.tab(chromium, magid) as tab:
        sign_in(tab, SECRETS["admin"])
        tab.open("system")
        tab.page.get_by_label("New token").fill("made-here")
        tab.page.get_by_role("button", name="Make").click()
        shown = tab.page.get_by_role("alert").locator("code")
        made = shown.inner_text()
        answer = magid.client.get("/v1/models", headers={"Authorization": f"Bearer {made}"})
        assert answer.status_code == 200
        tab.page.reload()
        tab.page.get_by_role("button", name="Revoke made-here").wait_for()
        assert made not in tab.page.content()
        tab.page.get_by_role("button", name="Revoke made-here").click()
        tab.page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        expect(tab.page.get_by_role("button", name="Revoke made-here")).to_have_count(0)
        answer = magid.client.get("/v1/models", headers={"Authorization": f"Bearer {made}"})
        assert answer.status_code == 401
        assert tab.said == []


def test_a_link_signs_in_once(chromium: Browser, magid: Running) -> None:
    with magid.local() as client:
        path = client.post("/api/session/links", json={}).json()["path"]
    for works in (True, False):
        with page.tab(chromium, magid) as tab:
            tab.page.goto(f"{magid.url}/{path}")
            if works:
                tab.sees("2 servers ready")
                assert "link" not in tab.page.url
            else:
                tab.sees("this link was used already", ".notices")
                expect(tab.page.locator("#token")).to_be_visible()

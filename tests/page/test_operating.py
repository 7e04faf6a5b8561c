"""Chat, activity, logs and system: the views beside models and profiles, with real servers."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from threading import Thread

import httpx
import pytest
from playwright.sync_api import Browser, FilePayload, Locator, expect

from tests.support import fleets, page, rest
from tests.support.deadlines import DEADLINE_S
from tests.support.ggufs import THINKING_ANSWER
from tests.support.page import Tab
from tests.support.rest import ALPHA, BETA, GAMMA
from tests.support.running import Running, frozen

pytestmark = pytest.mark.slow

# Each view, and what is there once all of it has come.
VIEWS = {
    "overview": "h2:text('Servers')",
    "models": "td.col-name",
    f"models/{ALPHA}": ".field",
    "library": "table[aria-label='Models on the disk'] td",
    "profiles": "td:has-text('two that run')",
    "profiles/test": "table[aria-label='Models of the profile'] td",
    "chat": "option:text('BETA')",
    "activity": "table[aria-label='Requests'] td",
    "logs": ".lines div",
    "system": "#tokens",
}


# -- chat ----------------------------------------------------------------------------------------


def say(tab: Tab, text: str) -> None:
    tab.page.get_by_label("Message").fill(text)
    tab.page.keyboard.press("Enter")


def answers(tab: Tab) -> Locator:
    return tab.page.get_by_role("article", name="Model")


def test_a_conversation_is_streamed_and_kept_in_the_browser(tab: Tab, magid: Running) -> None:
    tab.open("chat")
    tab.page.get_by_role("combobox", name="Model").select_option(ALPHA)
    say(tab, "Hello <b>you</b>")
    expect(answers(tab)).to_contain_text("a second")
    expect(answers(tab)).to_contain_text(ALPHA)
    expect(tab.page.get_by_role("article", name="You")).to_have_text("Hello <b>you</b>")
    said = answers(tab).locator(".prose").first.inner_text()
    assert said
    tab.page.reload()
    expect(answers(tab)).to_contain_text(said)
    say(tab, "And again")
    expect(answers(tab).last).to_contain_text("a second")
    expect(answers(tab)).to_have_count(2)
    tab.page.get_by_role("button", name="New conversation").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Begin").click()
    tab.sees("Ask something")


def test_reasoning_is_folded(tab: Tab, magid: Running) -> None:
    magid.ask("POST", f"/api/models/servers/{GAMMA}/start", status=409)  # the profile has it not
    magid.ask("PUT", f"/api/models/{GAMMA}/enabled", {"enabled": True})
    magid.ask("POST", f"/api/models/servers/{GAMMA}/start?wait=60")
    tab.open("chat")
    tab.page.get_by_role("combobox", name="Model").select_option(GAMMA)
    say(tab, "Hello")
    thoughts, _, answer = THINKING_ANSWER.partition("</think>")
    expect(answers(tab)).to_contain_text(answer.strip())
    folded = answers(tab).locator("details .prose")
    expect(folded).to_be_hidden()
    answers(tab).get_by_text("Reasoning").click()
    expect(folded).to_contain_text(thoughts.strip()[:20])
    magid.ask("PUT", f"/api/models/{GAMMA}/enabled", {"enabled": None})
    magid.ask("POST", f"/api/models/servers/{GAMMA}/stop?wait=60")


def asked(magid: Running, model_id: str) -> None:
    """Asks, and takes whatever comes of it."""
    body = {"model": model_id, "messages": [{"role": "user", "content": "Hi"}]}
    with fleets.client(magid) as client, suppress(httpx.HTTPError):
        client.post("/v1/chat/completions", json=body)


def test_an_answer_is_stopped(tab: Tab, magid: Running) -> None:
    tab.open("chat")
    tab.page.get_by_role("combobox", name="Model").select_option(BETA)
    with frozen(magid.servers()[BETA]["pid"]):
        say(tab, "Hello")
        tab.sees("Waiting for the model")
        tab.page.get_by_role("button", name="Stop").click()
        tab.page.get_by_role("button", name="Send").wait_for()
    expect(answers(tab).get_by_role("alert")).to_have_count(0)


def test_a_picture_is_drawn_and_sent(tab: Tab) -> None:
    tab.open("chat")
    tab.page.get_by_role("combobox", name="Model").select_option(ALPHA)
    picture = tab.page.screenshot(clip={"x": 0, "y": 0, "width": 40, "height": 30})
    file = FilePayload(name="small.png", mimeType="image/png", buffer=picture)
    tab.page.get_by_label("Add picture").set_input_files([file])
    tab.page.get_by_role("img", name="Picture").wait_for()
    say(tab, "What is this?")
    shown = tab.page.get_by_role("article", name="You").get_by_role("img")
    expect(shown).to_have_js_property("width", 40)
    expect(answers(tab).get_by_role("alert")).to_contain_text(
        "the request"
    )  # it is too large for it


def test_a_request_under_way_is_cancelled(tab: Tab, magid: Running) -> None:
    tab.open(f"models/{BETA}")
    with frozen(magid.servers()[BETA]["pid"]):
        client = Thread(target=asked, args=(magid, BETA))
        client.start()
        row = tab.page.get_by_role("table", name="Requests").locator("tbody tr").first
        expect(row).to_contain_text("running")
        row.get_by_role("button", name="Cancel").click()
        tab.page.get_by_role("dialog").get_by_role("button", name="Cancel the request").click()
        expect(row).to_contain_text("killed")
        client.join(DEADLINE_S)


def test_a_refusal_of_the_gateway_stands_in_the_answer(tab: Tab) -> None:
    tab.page.add_init_script("localStorage.setItem('magid.chat-model', '\"nothing\"')")
    tab.open("chat")
    say(tab, "Hello")
    expect(answers(tab).get_by_role("alert")).to_contain_text("cannot find model 'nothing'")


# -- activity, logs, system ----------------------------------------------------------------------


def test_requests_are_listed_live_and_exported(tab: Tab, magid: Running, tmp_path: Path) -> None:
    tab.open("activity")
    body = {"model": BETA, "messages": [{"role": "user", "content": "secret"}], "max_tokens": 4}
    magid.client.post("/v1/chat/completions", json=body).raise_for_status()
    magid.client.post("/v1/chat/completions", json={**body, "model": ALPHA}).raise_for_status()
    rows = tab.page.get_by_role("table", name="Requests").locator("tbody tr")
    expect(rows.filter(has_text=BETA).first).to_contain_text("ok")
    expect(rows.filter(has_text=ALPHA).first).to_contain_text("/v1/chat/completions")
    tab.page.get_by_label("Search requests").fill(BETA)
    expect(rows.filter(has_text=ALPHA)).to_have_count(0)
    with tab.page.expect_download() as caught:
        tab.page.get_by_role("button", name="Export JSON").click()
    caught.value.save_as(tmp_path / "requests.json")
    exported = json.loads((tmp_path / "requests.json").read_text())
    assert {one["modelId"] for one in exported} == {BETA}
    assert "secret" not in tab.page.content()


def test_a_refused_request_is_listed_with_the_reason(
    tab: Tab, magid: Running, tmp_path: Path
) -> None:
    tab.open("activity")
    body = {"model": ALPHA, "messages": [{"role": "user", "content": "secret"}], "max_tokens": 4}
    magid.client.post("/v1/chat/completions", json=body).raise_for_status()
    magid.client.post("/v1/chat/completions", json={**body, "model": "none_such"})
    rows = tab.page.get_by_role("table", name="Requests").locator("tbody tr")
    expect(rows.first).to_contain_text("refused: model not found")
    expect(rows.first).to_contain_text("none_such")
    tab.page.get_by_label("Outcome", exact=True).select_option("refused: model not found")
    expect(rows.filter(has_text=ALPHA)).to_have_count(0)
    with tab.page.expect_download() as caught:
        tab.page.get_by_role("button", name="Export CSV").click()
    caught.value.save_as(tmp_path / "requests.csv")
    assert "ModelNotFound,cannot find model 'none_such'" in (tmp_path / "requests.csv").read_text()
    rows.first.get_by_role("button", name="Details").click()
    expect(tab.page.get_by_role("dialog")).to_contain_text("cannot find model 'none_such'")
    assert page.axe(tab.page) == []
    tab.page.keyboard.press("Escape")
    expect(tab.page.get_by_role("dialog")).to_have_count(0)
    assert "secret" not in tab.page.content()


def test_logs_are_followed_searched_and_paused(tab: Tab, magid: Running) -> None:
    tab.open("logs")
    lines = tab.page.get_by_role("log")
    expect(lines).to_contain_text("magid is serving")
    tab.page.get_by_label("Search Log of magid").fill("tier")
    magid.ask("PUT", f"/api/models/{ALPHA}/tier", {"tier": "powerful"})
    expect(lines).to_contain_text(ALPHA)
    expect(lines).not_to_contain_text("magid is serving")
    tab.page.get_by_role("button", name="Pause").click()
    magid.ask("PUT", f"/api/models/{ALPHA}/tier", {"tier": "balanced"})
    tab.page.get_by_label("Search Log of magid").fill("")
    tab.page.get_by_label("Level", exact=True).select_option("warning")
    expect(lines).not_to_contain_text("magid is serving")
    rest.forget_overrides(magid)
    tab.page.get_by_label("Log of", exact=True).select_option(ALPHA)
    expect(lines).to_contain_text("llama_server: listening")


def test_the_system_says_what_it_is_and_what_was_used(tab: Tab, magid: Running) -> None:
    body = {"model": ALPHA, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    magid.client.post("/v1/chat/completions", json=body).raise_for_status()
    tab.open("system")
    tab.sees(magid.get("/api/models/status")["versions"]["llamaServer"])
    tab.sees(str(magid.models))
    usage = tab.page.get_by_role("table", name="Usage")
    expect(usage.locator("tr", has_text=ALPHA)).to_have_count(1)
    tab.page.get_by_label("Sum by").select_option("day")
    expect(usage.locator("tbody tr")).to_have_count(1)
    tab.sees("There are none: who reaches this address may do everything")


def test_the_system_says_what_is_configured_and_where(tab: Tab, magid: Running) -> None:
    tab.open("system")
    rows = tab.page.get_by_role("table", name="Configuration").locator("tbody tr")

    def row(key: str) -> Locator:
        return rows.filter(has=tab.page.get_by_text(key, exact=True))

    expect(row("model_paths")).to_contain_text(str(magid.models))
    expect(row("model_paths")).to_contain_text("MODEL_SCAN_PATH")
    expect(row("port_range")).to_contain_text("magid.yaml:1")
    expect(row("stop_timeout")).to_have_count(0)
    tab.page.get_by_label("Settings", exact=True).select_option("all")
    expect(row("stop_timeout")).to_contain_text("default")
    engines = tab.page.get_by_role("region", name="Engines")
    expect(engines).to_contain_text("None was added")
    expect(engines).to_contain_text("magictl engine use NAME")


def test_engines_say_which_models_have_them(tab: Tab, magid: Running) -> None:
    engine = magid.folder / "engines/cuda"
    (engine / "files").mkdir(parents=True)
    (engine / "files/llama-server").write_text("#!/bin/sh\n")
    (engine / "files/llama-server").chmod(0o755)
    (engine / "llama-server").symlink_to("files/llama-server")
    about = {"name": "cuda", "version": "0.7.0", "source": "/srv/x.tar.gz", "sha256": "",
             "program": "files/llama-server", "gpus": ["CUDA0"], "added_at": 1.5e9}  # fmt: skip
    (engine / "engine.json").write_text(json.dumps(about))
    row = tab.page.get_by_role("table", name="Engines").locator("tbody tr")
    for given, name in (("cuda", "GAMMA"), (None, "\u2013")):
        magid.ask("PUT", f"/api/models/{GAMMA}/runtime-settings", {"engine": given})
        tab.open("system")
        expect(row.locator(".col-models")).to_contain_text(name)
        tab.open("overview")
    shutil.rmtree(engine)


# -- all views -----------------------------------------------------------------------------------


@pytest.fixture
def with_requests(magid: Running) -> None:
    """The list of requests has a row of each kind, whichever tests have run before."""
    for model in (ALPHA, "none_such_" * 9):
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        magid.client.post("/v1/chat/completions", json=body)


def opened(tab: Tab, view: str) -> Tab:
    tab.open(view)
    tab.page.locator(f"main {VIEWS[view]}").first.wait_for(state="attached")
    return tab


@pytest.mark.usefixtures("with_requests")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_in_any_view(chromium: Browser, magid: Running, theme: str) -> None:
    with page.tab(chromium, magid, color_scheme=theme) as tab:
        found = {view: page.axe(opened(tab, view).page) for view in VIEWS}
    assert found == {view: [] for view in VIEWS}


@pytest.mark.usefixtures("with_requests")
def test_no_view_is_wider_than_the_screen(chromium: Browser, magid: Running) -> None:
    for width in (360, 1280, 2560):
        with page.tab(chromium, magid, viewport={"width": width, "height": 900}) as tab:
            wide = "document.documentElement.scrollWidth"
            assert [v for v in VIEWS if opened(tab, v).page.evaluate(wide) > width] == [], width


# What has the focus, by its name; the outline that shows it is not to be missing.
FOCUSED = """() => {
  const one = document.activeElement;
  if (one === document.body) return null;
  const style = getComputedStyle(one);
  const name = one.ariaLabel || one.labels?.[0]?.textContent || one.textContent;
  return [name.trim(), style.outlineStyle !== "none"];
}"""


@pytest.mark.usefixtures("with_requests")
def test_each_view_is_walked_by_keyboard_alone(chromium: Browser, magid: Running) -> None:
    with page.tab(chromium, magid) as tab:
        for view in VIEWS:
            tab.page.goto("about:blank")  # a change of the view alone leaves the focus in it
            opened(tab, view)
            reached = []
            for _ in range(25):
                tab.page.keyboard.press("Tab")
                if (found := tab.page.evaluate(FOCUSED)) is None:
                    break
                reached.append(found)
            names = [name for name, _ in reached]
            assert all(name and shown for name, shown in reached), (view, reached)
            assert "System" in names, view
            assert len(names) > 11 or view == "overview", (view, names)

"""The list of models, and the page of one."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Route, expect

from tests.support import ggufs, page, rest
from tests.support.page import Tab
from tests.support.rest import ALPHA, BETA, DEEPSEEK, GAMMA, QWEN, Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow


def row(tab: Tab, model_id: str) -> Locator:
    link = tab.page.locator(f"a[title={model_id}]")
    return tab.page.get_by_role("table", name="Models").locator("tbody tr").filter(has=link)


def names(tab: Tab) -> list[str]:
    return tab.page.locator("td.col-name a").all_inner_texts()


@pytest.fixture(autouse=True)
def as_before(magid: Running) -> Iterator[None]:
    yield
    rest.forget_overrides(magid)


def test_the_list_is_searched_sorted_filtered_and_pinned(tab: Tab, magid: Running) -> None:
    tab.open("models")
    expect(tab.page.locator("td.col-name")).to_have_count(5)
    tab.page.get_by_role("searchbox").fill("deep 8")
    expect(tab.page.locator("td.col-name")).to_have_count(1)
    tab.sees("1 of 5 models")
    tab.page.get_by_role("button", name="Show all").click()
    tab.page.get_by_label("State", exact=True).select_option("running")
    expect(tab.page.locator("td.col-name")).to_have_count(2)
    tab.page.get_by_label("State", exact=True).select_option("")
    tab.page.get_by_label("Tier", exact=True).select_option("powerful")
    expect(tab.page.locator("td.col-name")).to_have_count(2)
    tab.page.get_by_role("button", name="Show all").click()
    tab.page.get_by_role("button", name="Context").click()
    tab.page.get_by_role("button", name="Model").click()
    assert names(tab) == sorted(names(tab))
    tab.page.get_by_role("button", name="Model").click()
    assert names(tab) == sorted(names(tab), reverse=True)
    row(tab, BETA).get_by_role("button", name="Pin").click()
    assert names(tab)[0].startswith("BETA")
    tab.page.reload()
    tab.page.wait_for_selector("td.col-name")
    assert names(tab)[0].startswith("BETA")


def test_a_model_is_stopped_started_and_restarted(tab: Tab, magid: Running) -> None:
    tab.open("models")
    line = row(tab, BETA)
    line.get_by_role("button", name="Stop").click()
    expect(line).to_contain_text("Stopped")
    assert magid.servers()[BETA]["pid"] is None
    line.get_by_role("button", name="Start").click()
    expect(line).to_contain_text("Ready")
    before = magid.servers()[BETA]["pid"]
    line.get_by_role("button", name="Restart").click()
    magid.wait_for("another process", lambda: magid.servers()[BETA]["pid"] not in (before, None))
    expect(line).to_contain_text("Ready")


def test_what_is_asked_for_shows_before_magid_answers(tab: Tab) -> None:
    held: list[Route] = []
    tab.open("models")
    tab.page.route("**/stop", lambda route: held.append(route))
    row(tab, BETA).get_by_role("button", name="Stop").click()
    expect(row(tab, BETA)).to_contain_text("Stopping")
    held[0].abort()  # it never reached magid
    expect(row(tab, BETA)).to_contain_text("Ready")
    tab.sees("cannot reach magid", ".notices")


def test_a_refusal_says_why_and_takes_it_back(tab: Tab) -> None:
    tab.open("models")
    line = row(tab, GAMMA)
    line.get_by_role("button", name="Start").click()
    tab.sees("cannot start", ".notices")
    expect(line).to_contain_text("Disabled")


def test_enabled_tier_and_thinking(tab: Tab, magid: Running) -> None:
    tab.page.set_viewport_size({"width": 1600, "height": 900})
    tab.open("models")
    row(tab, QWEN).get_by_label("Enabled").click()
    expect(row(tab, QWEN)).not_to_contain_text("Disabled")
    assert rest.model(magid, QWEN)["enabledOverride"] is True
    row(tab, QWEN).get_by_label("Tier").select_option(label="powerful (set)")
    expect(row(tab, QWEN).get_by_label("Tier")).to_have_value("powerful")
    magid.wait_for("tier", lambda: rest.model(magid, QWEN)["tierOverride"] == "powerful")
    row(tab, DEEPSEEK).get_by_label("Thinking").click()
    magid.wait_for("it", lambda: rest.model(magid, DEEPSEEK)["thinkingOverride"] is not None)


# -- the page of one -----------------------------------------------------------------------------


def test_a_model_shows_what_it_is_and_how_it_runs(tab: Tab, magid: Running) -> None:
    tab.open("models")
    row(tab, ALPHA).get_by_role("link").click()
    detail = magid.get(f"/api/models/{ALPHA}")
    for text in (ALPHA, detail["architecture"], detail["files"][0], detail["wantedReason"]):
        tab.sees(text)
    tab.sees(" ".join(detail["argv"][0]))
    tab.sees("Fits")
    tab.sees("llama_server: listening")
    table = tab.page.get_by_role("table", name="Memory of one server")
    expect(table.locator("tbody tr")).not_to_have_count(0)


def field(tab: Tab, key: str) -> Locator:
    return tab.page.locator(f".field:has(#set-{key})")


def test_the_form_has_each_setting_of_the_table(tab: Tab, magid: Running) -> None:
    tab.open(f"models/{BETA}")
    sources = magid.get(f"/api/models/{BETA}")["sources"]
    keys = set(sources) - {"tier", "thinking", "enabled", "port"}
    tab.page.wait_for_selector(".field")
    ids = tab.page.eval_on_selector_all(".field [id^=set-]", "(all) => all.map((one) => one.id)")
    assert {one.removeprefix("set-") for one in ids} == keys


def test_a_setting_is_changed_and_goes_back_to_its_default(tab: Tab, magid: Running) -> None:
    tab.open(f"models/{BETA}")
    context = field(tab, "ctxSize")
    context.get_by_role("textbox").fill("1K")
    field(tab, "extraArgs").get_by_role("textbox").fill("--temp 0.2")
    tab.page.get_by_role("button", name="Save").click()
    expect(context).to_contain_text("set here")
    expect(context.get_by_role("textbox")).to_have_value("1024")
    tab.sees("--ctx-size 1024")
    tab.sees("It runs with older settings")
    shown = rest.model(magid, BETA)
    assert (shown["ctxSize"], shown["extraArgs"]) == (1024, ["--temp", "0.2"])
    context.get_by_role("button", name="Back to default").click()
    expect(context).to_contain_text("default")
    magid.wait_for("default", lambda: rest.model(magid, BETA)["ctxSize"] == 512)


def test_each_decision_has_its_source_and_the_way_back(tab: Tab, magid: Running) -> None:
    tab.open(f"models/{QWEN}")
    facts = tab.page.locator(".facts")
    expect(facts).to_contain_text("by profile test")
    port = magid.port_range[0] + 2
    facts.get_by_label("Port of").fill(str(port))
    facts.get_by_label("Port of").press("Enter")
    magid.wait_for("port", lambda: rest.model(magid, QWEN)["port"] == port)
    facts.get_by_label("Enabled").click()
    facts.get_by_label("Thinking").click()
    # Not by its value: "as found" has that as its text where thinking has made the model powerful.
    facts.get_by_label("Tier of").select_option(label="powerful (set)")
    for what in ("enabled", "thinking", "tier", "port"):
        back = facts.get_by_role("button", name=f"Back to default: {what}")
        back.wait_for()
        assert magid.get(f"/api/models/{QWEN}")["sources"][what] == "override"
        back.click()
        expect(back).to_have_count(0)
        assert magid.get(f"/api/models/{QWEN}")["sources"][what] != "override"
    facts.get_by_label("Port of").fill("many")
    facts.get_by_label("Port of").press("Enter")
    tab.sees("cannot use port many", ".notices")


def test_what_is_wrong_stands_at_its_field(tab: Tab, magid: Running) -> None:
    tab.open(f"models/{BETA}")
    box = field(tab, "nThreads").get_by_role("textbox")
    box.fill("many")
    tab.page.get_by_role("button", name="Save").click()
    expect(field(tab, "nThreads").get_by_role("alert")).to_contain_text("whole number")
    box.fill("5000")
    tab.page.get_by_role("button", name="Save").click()
    expect(field(tab, "nThreads").get_by_role("alert")).to_contain_text("1024")
    expect(box).to_have_attribute("aria-invalid", "true")
    expect(box).to_have_value("5000")  # nothing is lost
    assert rest.model(magid, BETA)["nThreads"] == 1


def test_an_unknown_model_is_said_to_be_none(tab: Tab) -> None:
    tab.page.goto(f"{tab.url}/#/models/nothing%2F%3Cb%3E")
    tab.sees("There is no model nothing/<b>")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", ["models", f"models/{BETA}"])
def test_axe_finds_nothing(chromium: Browser, magid: Running, theme: str, view: str) -> None:
    with page.tab(chromium, magid, color_scheme=theme) as tab:
        tab.open(view)
        tab.page.wait_for_selector(".field" if "/" in view else "td.col-name")
        assert page.axe(tab.page) == []


# -- a thousand ----------------------------------------------------------------------------------

MANY = 1000


@pytest.fixture(scope="module")
def crowded(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = parts.daemon(tmp_path_factory.mktemp("crowded"))
    page.give_to(running)
    for number in range(MANY):
        path = running.models / f"Model{number}-7B-Q4_K_M.gguf"
        ggufs.write_sparse_model(path, parameters_billions=7)
    (running.profiles / "test.yaml").write_text("name: Test\nenabled_models: []\n")
    with running, running.client:
        running.wait_ready()
        yield running


def test_a_thousand_models_are_few_rows(chromium: Browser, crowded: Running) -> None:
    with page.tab(chromium, crowded) as tab:
        tab.open("models")
        tab.sees("1,000 models")
        rows = tab.page.locator("td.col-name")
        assert rows.count() < 100
        tab.page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        last = tab.page.get_by_role("table", name="Models").locator(
            f"tr[aria-rowindex='{MANY + 1}']"
        )
        expect(last).to_be_in_viewport()
        assert rows.count() < 100
        tab.page.get_by_role("searchbox").fill("model777")
        expect(rows).to_have_count(1)
        assert tab.said == []


def test_a_row_is_as_high_as_the_gaps_say(chromium: Browser, crowded: Running) -> None:
    with page.tab(chromium, crowded) as tab:
        tab.open("models")
        tab.page.wait_for_selector("td.col-name")
        height = tab.page.locator("table").bounding_box()
        assert height is not None
        assert re.fullmatch("3203[0-9]|320[2-6][0-9]", str(round(height["height"])))

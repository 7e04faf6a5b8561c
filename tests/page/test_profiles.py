"""Profiles: form and YAML, which are two views of one file; switching, copying, deleting."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Route, expect

from tests.support import page, rest
from tests.support.page import Tab
from tests.support.rest import ALPHA, BETA, GAMMA, QWEN
from tests.support.running import Running

pytestmark = pytest.mark.slow

PROFILES = "/api/models/profiles"
COMMENTED = f"""\
# What runs at night.
name:  Night   # as people call it
description: few
enabled_models:
# always there
- {ALPHA}  # small
# Names that programs ask for
aliases:
  # of the old server
  gpt-4o: {ALPHA}
  # with thoughts
  alpha:think: {{model: {ALPHA}, reasoning: 100}}
# two_stage: not yet
"""


@pytest.fixture(autouse=True)
def as_before(magid: Running) -> Iterator[None]:
    yield
    if magid.get("/api/models/status")["activeProfile"] != "test":
        magid.ask("POST", f"{PROFILES}/test/activate")
    for path in magid.profiles.iterdir():
        if path.name != "test.yaml":
            path.unlink()
    (magid.profiles / "test.yaml").write_text(rest.PROFILE)
    rest.forget_overrides(magid)
    magid.wait_ready()


@pytest.fixture
def night(magid: Running) -> Path:
    """The file of a profile that was written by hand."""
    file = magid.profiles / "night.yaml"
    file.write_text(COMMENTED)
    return file


def test_the_list_says_which_file_a_profile_is_and_which_are_unusable(
    tab: Tab, magid: Running
) -> None:
    (magid.profiles / "second.yaml").write_text("name: Late\nenabled_models: []\n")
    (magid.profiles / "broken.yaml").write_text("name: Broken\nenabled_models: 1\n")
    tab.open("profiles")
    rows = tab.page.get_by_role("table", name="Profiles").locator("tbody tr")
    expect(rows.filter(has_text="Late")).to_contain_text("Late second")
    broken = rows.filter(has_text="broken")
    expect(broken).to_contain_text("Unusable")
    expect(broken.get_by_role("button")).to_have_count(1)  # it can be deleted, not switched to
    expect(broken.locator(".state")).to_have_attribute("title", re.compile("line 2"))
    (magid.profiles / "test.yaml").write_text("name: Test\nenabled_models: 1\n")
    active = rows.filter(has_text="Active")
    expect(active).to_contain_text("Unusable")  # beside it
    tab.page.set_viewport_size({"width": 600, "height": 800})
    expect(active.locator(".col-name .problem")).to_contain_text("line 2")
    assert page.axe(tab.page) == []


def test_a_profile_that_could_not_be_had_is_no_unusable_one(tab: Tab, magid: Running) -> None:
    (magid.profiles / "second.yaml").write_text("name: Late\nenabled_models: []\n")
    tab.open("overview")
    asked: list[Route] = []
    tab.page.route(re.compile("/profiles/second$"), lambda route: asked.append(route))
    with tab.page.expect_request(re.compile("/profiles/second$")):
        tab.open("profiles")
    row = tab.page.get_by_role("table", name="Profiles").locator("tbody tr").filter(has_text="sec")
    expect(row.get_by_role("button", name="Switch to second")).to_be_visible()
    magid.kill()
    asked[0].abort()
    tab.page.unroute_all()
    magid.start()
    expect(row).to_contain_text("Late")
    expect(row).not_to_contain_text("Unusable")


def in_form(tab: Tab, name: str) -> Tab:
    tab.open(f"profiles/{name}")
    expect(tab.page.get_by_label("Name", exact=True)).to_have_value(re.compile("."))
    tab.page.get_by_role("table", name="Models of the profile").wait_for()
    return tab


def in_yaml(tab: Tab, name: str) -> Locator:
    in_form(tab, name).page.get_by_role("button", name="YAML").click()
    return tab.page.get_by_label("Profile as YAML")


def save(tab: Tab) -> None:
    tab.page.get_by_role("button", name="Save").click()


def saved(tab: Tab) -> None:
    save(tab)
    tab.sees("successfully", ".notices")


def enables(tab: Tab, name: str) -> Locator:
    return tab.page.get_by_label(f"In this profile: {name}")


# -- the form ------------------------------------------------------------------------------------


def test_a_profile_is_made_in_the_form_switched_to_and_deleted(tab: Tab, magid: Running) -> None:
    tab.open("profiles")
    tab.page.get_by_role("button", name="New profile").click()
    tab.page.get_by_label("Name", exact=True).fill("Only alpha")
    tab.page.get_by_label("fast", exact=True).first.uncheck()
    enables(tab, "ALPHA").check()
    tab.page.get_by_role("button", name="Add a name").click()
    tab.page.get_by_label("Model of new-name").fill("powerful")
    tab.page.get_by_label("Name: new-name").fill("best")
    save(tab)
    tab.sees("Profile only-alpha")
    shown = magid.get(f"{PROFILES}/only-alpha")
    assert (shown["enabledModels"], shown["aliases"]) == ([ALPHA], {"best": "powerful"})
    tab.page.get_by_role("link", name="Profiles").first.click()
    tab.page.get_by_role("button", name="Switch to only-alpha").click()
    plan = tab.page.get_by_role("dialog")
    expect(plan).to_contain_text("Stops 1 server, starts 0, keeps 1")
    expect(plan).to_contain_text(BETA)
    plan.get_by_role("button", name="Cancel").click()
    assert magid.get("/api/models/status")["activeProfile"] == "test"
    tab.page.get_by_role("button", name="Switch to only-alpha").click()
    plan.get_by_role("button", name="Switch").click()
    tab.sees("only-alpha", "header")
    magid.wait_for("stop", lambda: BETA not in magid.servers())
    tab.page.get_by_role("button", name="Switch to test").click()
    plan.get_by_role("button", name="Switch").click()
    tab.sees("test", "header")
    tab.page.get_by_role("button", name="Delete only-alpha").click()
    plan.get_by_role("button", name="Delete").click()
    expect(tab.page.get_by_role("link", name="Only alpha")).to_have_count(0)
    assert magid.get(PROFILES) == ["test"]


def test_the_form_keeps_what_a_person_wrote(tab: Tab, night: Path, magid: Running) -> None:
    in_form(tab, "night")
    tab.page.get_by_label("Description", exact=True).fill("a few more")
    enables(tab, "BETA").check()
    tab.page.get_by_label("Model of gpt-4o").fill("fast")
    variant = tab.page.get_by_role("group", name="Name alpha:think")
    variant.get_by_label("Set", exact=True).fill("temperature: 0.6\ntop_k: 20")
    saved(tab)
    before, after = COMMENTED.splitlines(), night.read_text().splitlines()
    assert [line for line in before if line not in after] == [
        "description: few", f"- {ALPHA}  # small", f"  gpt-4o: {ALPHA}",
        f"  alpha:think: {{model: {ALPHA}, reasoning: 100}}",
    ]  # fmt: skip
    comments = re.findall("#.*", COMMENTED)
    assert re.findall("#.*", night.read_text()) == comments
    shown = magid.get(f"{PROFILES}/night")
    assert shown["enabledModels"] == [ALPHA, BETA]
    assert shown["aliases"] == {
        "gpt-4o": "fast",
        "alpha:think": {
            "model": ALPHA, "reasoning": 100, "set": {"temperature": 0.6, "top_k": 20},
        },
    }  # fmt: skip


def test_models_are_enabled_by_tier_and_by_pattern(tab: Tab, magid: Running) -> None:
    in_form(tab, "test")
    expect(enables(tab, "ALPHA")).to_be_checked()
    expect(enables(tab, "ALPHA")).to_be_disabled()  # the pattern decides
    tab.page.get_by_label("Patterns of ids").fill("beta*\nnobody_*")
    tab.page.keyboard.press("Tab")
    expect(enables(tab, "ALPHA")).not_to_be_checked()
    tab.page.get_by_label("powerful", exact=True).first.check()
    expect(enables(tab, "GAMMA")).to_be_checked()
    tab.page.get_by_role("searchbox").fill("qwen")
    expect(tab.page.get_by_label(re.compile("In this profile"))).to_have_count(1)
    enables(tab, "QWEN3").check()
    saved(tab)
    entries = ["beta*", "nobody_*", "tier:powerful", QWEN]
    assert magid.get(f"{PROFILES}/test")["enabledModels"] == entries
    tab.page.get_by_role("button", name="Apply").wait_for()  # it is the active one


def test_what_is_wrong_stands_at_its_field(tab: Tab, night: Path) -> None:
    in_form(tab, "night")
    tab.page.get_by_label("Name", exact=True).fill("")
    tab.page.get_by_label("Up to score: fast").fill("many")
    tab.page.get_by_label("Health check interval").fill("-5")
    save(tab)
    interval = tab.page.locator(".field").filter(has_text="Health check interval")
    expect(interval.get_by_role("alert")).to_contain_text("should be")
    for label in ("Name", "Up to score: fast", "Health check interval"):
        expect(tab.page.get_by_label(label, exact=True)).to_have_attribute("aria-invalid", "true")
    expect(tab.page.get_by_label("Up to score: fast")).to_have_value("many")  # nothing is lost
    tab.page.locator("#faults button").filter(has_text=re.compile("Line")).last.click()
    assert tab.page.evaluate("document.activeElement.id") == (
        "at-load_balancing.health_check_interval"
    )
    assert night.read_text() == COMMENTED
    tab.page.get_by_label("Name", exact=True).fill("Night")
    tab.page.get_by_label("Up to score: fast").fill("2.5")
    tab.page.get_by_label("Health check interval").fill("")
    saved(tab)
    assert "max_score: 2.5" in night.read_text()


def test_a_model_has_its_tier_and_its_settings_in_the_form(tab: Tab, magid: Running) -> None:
    in_form(tab, "test")
    tab.page.get_by_label("Tier of GAMMA").select_option("fast")
    magid.wait_for("tier", lambda: rest.model(magid, GAMMA)["tierOverride"] == "fast")
    tab.page.get_by_role("button", name="Settings of GAMMA").click()
    dialog = tab.page.get_by_role("dialog")
    expect(dialog).to_contain_text("hold in every profile")
    dialog.get_by_label("Batch size", exact=True).fill("64")
    dialog.get_by_role("button", name="Save").click()
    magid.wait_for("batch", lambda: rest.model(magid, GAMMA)["batchSize"] == 64)
    dialog.get_by_role("button", name="Back to default: Batch size").click()
    magid.wait_for("default", lambda: rest.model(magid, GAMMA)["batchSize"] is None)
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_have_count(0)


def test_a_copy_keeps_comments_and_the_original(tab: Tab, night: Path, magid: Running) -> None:
    in_form(tab, "night").page.get_by_role("button", name="Copy", exact=True).click()
    expect(tab.page.get_by_label("Name", exact=True)).to_have_value("Copy of Night")
    save(tab)
    tab.sees("Profile copy-of-night")
    made = (magid.profiles / "copy-of-night.yaml").read_text()
    assert made == COMMENTED.replace("name:  Night   #", "name: Copy of Night #")
    assert night.read_text() == COMMENTED
    tab.page.get_by_role("button", name="Delete").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(tab.page.get_by_role("link", name="Night", exact=True)).to_have_count(1)
    assert magid.get(PROFILES) == ["night", "test"]


def test_what_is_not_saved_is_kept_until_it_is_discarded(tab: Tab, night: Path) -> None:
    in_form(tab, "night").page.get_by_label("Description", exact=True).fill("unsaved")
    tab.page.get_by_role("link", name="Profiles").first.click()
    tab.page.get_by_role("link", name="Night", exact=True).click()
    expect(tab.page.get_by_label("Description", exact=True)).to_have_value("unsaved")
    tab.page.get_by_role("button", name="Discard").click()
    expect(tab.page.get_by_label("Description", exact=True)).to_have_value("few")
    expect(tab.page.get_by_role("button", name="Discard")).to_have_count(0)
    assert night.read_text() == COMMENTED


# -- the text ------------------------------------------------------------------------------------


def test_both_views_show_one_text(tab: Tab, night: Path) -> None:
    sheet = in_yaml(tab, "night")
    expect(sheet).to_have_value(COMMENTED)
    sheet.fill(COMMENTED.replace("few", "none"))
    tab.page.get_by_role("button", name="Form").click()
    expect(tab.page.get_by_label("Description", exact=True)).to_have_value("none")
    tab.page.get_by_label("Description", exact=True).fill("some")
    tab.page.get_by_role("button", name="YAML").click()
    expect(sheet).to_have_value(COMMENTED.replace("few", "some"))
    saved(tab)
    assert night.read_text() == COMMENTED.replace("few", "some")


def test_what_is_wrong_is_marked_at_its_line(tab: Tab, magid: Running) -> None:
    sheet = in_yaml(tab, "test")
    faults = tab.page.locator("#faults")
    sheet.fill("name: Test\nenabled_models: [\n")
    expect(faults).to_contain_text("Line 3")
    expect(tab.page.get_by_role("button", name="Form")).to_be_disabled()
    sheet.fill("name: Test\nload_balancing:\n  strategy: best\nenabled_models: ['a b']\n")
    save(tab)
    expect(faults.locator("p")).to_have_count(2)
    expect(faults).to_contain_text("Line 3")
    expect(faults).to_contain_text("Line 4")
    expect(tab.page.locator(".numbers .marked")).to_have_text(["3", "4"])
    faults.get_by_role("button", name="Line 3").click()
    tab.waits_until("getSelection().toString() === '  strategy: best'")
    assert (magid.profiles / "test.yaml").read_text() == rest.PROFILE


def test_a_file_that_cannot_be_used_is_mended(tab: Tab, night: Path, magid: Running) -> None:
    night.write_text("name: Night\nenabled_models: 5 # oops\n")
    in_form(tab, "night")
    expect(tab.page.locator("#faults")).to_contain_text("enabled_models should be a list")
    enables(tab, "ALPHA").check()
    saved(tab)
    assert magid.get(f"{PROFILES}/night")["enabledModels"] == [ALPHA]


def test_another_edit_meanwhile_is_not_undone(tab: Tab, magid: Running) -> None:
    in_form(tab, "test")
    changed = rest.PROFILE.replace("two that run", "by another one")
    (magid.profiles / "test.yaml").write_text(changed)
    tab.page.get_by_label("Description", exact=True).fill("mine")
    save(tab)
    tab.sees("cannot", ".notices")
    assert (magid.profiles / "test.yaml").read_text() == changed
    expect(tab.page.get_by_label("Description", exact=True)).to_have_value("mine")


# -- for everybody -------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_axe_finds_nothing(
    chromium: Browser, magid: Running, night: Path, theme: str, width: int
) -> None:
    size = {"width": width, "height": 800}
    with page.tab(chromium, magid, color_scheme=theme, viewport=size) as tab:
        in_form(tab, "night").page.get_by_label("Name", exact=True).fill("")
        save(tab)
        tab.page.locator("#faults p").first.wait_for()
        assert page.axe(tab.page) == []
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
        tab.page.get_by_role("button", name="Settings of ALPHA").click()
        tab.page.get_by_role("dialog").locator(".field").first.wait_for()
        assert page.axe(tab.page) == []
        tab.page.keyboard.press("Escape")
        tab.page.get_by_role("button", name="YAML").click()
        assert page.axe(tab.page) == []


def test_the_form_is_used_by_keyboard_alone(tab: Tab, night: Path) -> None:
    in_form(tab, "night")
    tab.page.get_by_role("button", name="Form").focus()
    for _ in range(2):
        tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.id") == "at-name"
    tab.page.keyboard.type("Day")
    for _ in range(300):
        tab.page.keyboard.press("Tab")
        if tab.page.evaluate("document.activeElement.textContent") == "Save":
            break
    tab.page.keyboard.press("Enter")
    tab.sees("successfully", ".notices")
    assert "name: Day # as people call it" in night.read_text()

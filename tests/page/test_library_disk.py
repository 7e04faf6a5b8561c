"""The library: what the disk holds, and the removal of models."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.support import ggufs, page, rest
from tests.support.hub import ModelHub
from tests.support.library_page import TINY, empty, held, on_disk, press, pulled, write_eyes
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


def test_the_disk_by_model_and_folder(tab: Tab, magid: Running, hub: ModelHub) -> None:
    tab.open("library")
    eyes = write_eyes(magid)
    expect(on_disk(tab)).to_have_count(2)
    (magid.models / "notes.tar").write_bytes(bytes(3 << 20))
    (magid.models / "other.gguf.aria2").write_bytes(bytes(2 << 20))
    held(magid, hub, 2 << 20)
    press(tab, "Look again")
    table = tab.page.get_by_role("table", name="Files of no model")
    expect(table.locator("tbody tr")).to_have_count(1)
    expect(table).to_contain_text("notes.tar")
    expect(table).to_contain_text("3.0 MiB")
    table = tab.page.get_by_role("table", name="Unfinished downloads")
    expect(table.locator("tbody tr")).to_have_count(2)
    expect(table).to_contain_text("other.gguf.aria2")
    expect(table).to_contain_text("Tiny-GGUF:F16")
    bar = tab.page.locator(".memory").filter(has_text=str(magid.models))
    expect(bar).to_contain_text("downloads go here")
    expect(bar).to_contain_text(re.compile(r"Free ?[\d.,]+ .iB"))
    on_disk(tab).first.get_by_role("link").click()
    tab.sees("Its files were not downloaded by magid")
    assert tab.page.url.partition("#/models/")[2] in eyes.values()


def test_files_are_removed_after_a_question(tab: Tab, magid: Running) -> None:
    eyes = write_eyes(magid)
    tab.open("library")
    row = on_disk(tab).filter(has=tab.page.locator(f"a[title={eyes['q4_0']}]"))
    press(tab, "Remove", row)
    dialog = tab.page.get_by_role("dialog")
    expect(dialog).to_contain_text("Eye-Q4_0.gguf")
    expect(dialog).to_contain_text(re.compile(r"This frees [\d.]+ .iB"))
    expect(dialog).to_contain_text(
        re.compile(f"Stays.*mmproj-Eye.gguf is needed by {eyes['q8_0']}")
    )
    press(tab, "Cancel", dialog)
    assert (magid.models / "org/Eye/Eye-Q4_0.gguf").exists()
    expect(row.get_by_role("button")).to_be_focused()
    press(tab, "Remove", row)
    press(tab, "Remove 1 file", dialog)
    tab.sees("1 file removed", ".notices")
    expect(on_disk(tab)).to_have_count(1)
    expect(tab.page.get_by_role("heading", name="Disk")).to_be_focused()
    assert {path.name for path in (magid.models / "org/Eye").iterdir()} == {
        "Eye-Q8_0.gguf", "mmproj-Eye.gguf",
    }  # fmt: skip


def test_the_files_of_one_model_are_asked_for_at_a_time(tab: Tab, magid: Running) -> None:
    write_eyes(magid)
    plans: list[Route] = []
    tab.page.route(re.compile("dryRun=true"), lambda route: plans.append(route))
    tab.open("library")
    first, second = (on_disk(tab).nth(index).get_by_role("button") for index in (0, 1))
    with tab.page.expect_request(re.compile("dryRun=true")):
        first.click()
    second.evaluate("(button) => button.click()")
    expect(second).to_be_disabled()
    plans[0].continue_()
    dialog = tab.page.get_by_role("dialog")
    dialog.get_by_label("Also forget what was decided of it").check()
    second.evaluate("(button) => button.click()")
    expect(dialog.get_by_label("Also forget what was decided of it")).to_be_checked()
    press(tab, "Cancel", dialog)
    expect(second).to_be_enabled()
    assert len(plans) == 1


@pytest.mark.parametrize("forgets", [False, True])
def test_what_was_decided_stays_unless_it_is_chosen_too(
    tab: Tab, magid: Running, forgets: bool
) -> None:
    model = write_eyes(magid)["q4_0"]
    magid.ask("PUT", f"/api/models/{model}/tier", {"tier": "powerful"})
    tab.open("library")
    press(tab, "Remove", on_disk(tab).filter(has=tab.page.locator(f"a[title={model}]")))
    dialog = tab.page.get_by_role("dialog")
    choice = dialog.get_by_label("Also forget what was decided of it")
    expect(choice).not_to_be_checked()
    choice.set_checked(forgets)
    press(tab, "Remove 1 file", dialog)
    tab.sees("1 file removed", ".notices")
    assert write_eyes(magid)["q4_0"] == model
    assert rest.model(magid, model)["tierOverride"] == (None if forgets else "powerful")
    magid.ask("PUT", f"/api/models/{model}/tier", {"tier": None})


def test_a_running_model_is_stopped_and_removed_from_its_page(tab: Tab, magid: Running) -> None:
    pulled(magid, f"{TINY}:Q8_0")
    magid.wait_for("the model", lambda: bool(magid.get("/api/models/registry")["models"]))
    (model_id,) = magid.get("/api/models/registry")["models"]
    magid.ask("PUT", f"/api/models/{model_id}/enabled", {"enabled": True})
    magid.ask("POST", f"/api/models/servers/{model_id}/start?wait=60")
    tab.open(f"models/{model_id}")
    press(tab, "Remove the files")
    dialog = tab.page.get_by_role("dialog")
    expect(dialog).to_contain_text("It is running; its servers are stopped first")
    press(tab, "Remove 1 file", dialog)
    tab.sees("1 file removed", ".notices")
    expect(tab.page.get_by_role("heading", name="Models", exact=True)).to_be_visible()
    assert not list(magid.models.rglob("*.gguf"))


def test_outside_the_library_nothing_goes(chromium: Browser, parts: Parts, tmp_path: Path) -> None:
    running = parts.daemon(tmp_path / "magid")
    page.give_to(running)
    path = ggufs.write_chat_model(running.models / "Alpha-Q4_0.gguf", quantization="Q4_0")
    with running, running.client, page.tab(chromium, running) as tab:
        tab.open("library")
        tab.sees("Nothing can be downloaded here")
        expect(tab.page.get_by_role("textbox", name="Repository")).to_have_count(0)
        press(tab, "Remove", on_disk(tab))
        tab.sees("library_path in magid.yaml names one", ".notices")
        assert path.exists()

"""Dialogs over the page: their close event comes late, and says nothing of the next one."""

import json

import pytest
from playwright.sync_api import expect

from tests.support.page import Tab
from tests.support.rest import ALPHA
from tests.support.running import Running

pytestmark = pytest.mark.slow

# Closes the open dialog and opens the next one before the event comes; returns behind both.
CLOSE_AND_OPEN = """
async (next) => {
  const dialog = document.querySelector("dialog");
  const told = new Promise((resolve) => dialog.addEventListener("close", resolve));
  dialog.close();
  next.click();
  await told;
  for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
}
"""


def stays(tab: Tab, first: str, then: str) -> None:
    """The dialog that `then` opens stays, though the one of `first` is closed late."""
    tab.page.get_by_role("button", name=first).first.click()
    expect(tab.page.get_by_role("dialog")).to_be_visible()
    button = tab.page.get_by_role("button", name=then, include_hidden=True).last
    button.evaluate(CLOSE_AND_OPEN)
    expect(tab.page.get_by_role("dialog")).to_be_visible(timeout=1)
    tab.page.keyboard.press("Escape")
    expect(tab.page.get_by_role("dialog")).to_have_count(0)


def test_the_settings_of_the_next_model_stay_open(tab: Tab) -> None:
    tab.open("profiles/test")
    stays(tab, "Settings of ALPHA", "Settings of BETA")


def test_the_details_of_the_next_request_stay_open(tab: Tab, magid: Running) -> None:
    body = {"model": ALPHA, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    for _ in range(2):
        magid.client.post("/v1/chat/completions", json=body).raise_for_status()
    tab.open("activity")
    expect(tab.page.get_by_role("button", name="Details of").nth(1)).to_be_visible()
    stays(tab, "Details of", "Details of")


def test_the_next_question_stays_open(tab: Tab) -> None:
    tab.open("overview")
    said = json.dumps([{"role": "user", "text": "Hi"}])
    tab.page.evaluate("(said) => localStorage.setItem('magid.chat', said)", said)
    tab.open("chat")
    tab.page.reload()
    tab.sees("Hi")
    stays(tab, "New conversation", "New conversation")
    tab.sees("Hi")

"""The page's session over a restart of magid, and below a path behind a proxy."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.support import page, proxies, rest
from tests.support.page import Tab
from tests.support.rest import ALPHA, Parts
from tests.support.running import ROOT, Running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Its TCP port needs a token, and a proxy below /magi/ may stand before it."""
    settings = re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT, re.M | re.S)[0]
    running = parts.daemon(tmp_path_factory.mktemp("closed"), settings)
    running.listen_locally()
    page.give_to(running)
    rest.write_models(running.models)
    with running, running.client:
        running.wait_ready()
        running.use_token(running.make_token("boss", "admin"))
        yield running


DOCUMENT = (ROOT / "docs/page.md").read_text()


def sign_in(tab: Tab, token: str) -> None:
    tab.page.get_by_label("Token", exact=True).fill(token)
    tab.page.get_by_role("button", name="Sign in").click()


def is_signed_out(tab: Tab) -> None:
    """It asks for a token, and shows nothing from the last session."""
    expect(tab.page.get_by_label("Token", exact=True)).to_be_visible()
    text = tab.page.locator("body").inner_text()
    assert ALPHA not in text
    assert "ALPHA" not in text


def test_a_restart_of_magid_asks_for_a_token(tab: Tab, magid: Running) -> None:
    """By itself, without an error that stays; a session lives no longer than magid."""
    tab.page.goto(f"{magid.url}/")
    sign_in(tab, magid.make_token("lasting", "admin"))
    tab.sees("2 servers ready")
    magid.stop()
    magid.start()
    magid.wait_ready()
    is_signed_out(tab)
    expect(tab.page.locator(".banner.bad")).to_have_count(0)
    tab.page.reload()
    is_signed_out(tab)


def test_the_first_token_asks_who_is_there(
    chromium: Browser, parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A page that was open without a token shows nothing that changes afterwards."""
    magid = parts.daemon(tmp_path_factory.mktemp("open"))
    magid.listen_locally()
    page.give_to(magid)
    rest.write_models(magid.models)
    with magid, magid.client, page.tab(chromium, magid) as tab:
        magid.wait_ready()
        tab.open("overview").sees("2 servers ready")
        magid.use_token(magid.make_token("first", "admin"))
        magid.ask("POST", "/api/models/rescan")  # the next event is the stream's end
        is_signed_out(tab)


def test_it_works_below_a_path_behind_a_proxy(
    chromium: Browser, parts: Parts, magid: Running, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (server,) = re.findall(r"^```nginx\n(.*?)^```$", DOCUMENT, re.M | re.S)
    server = server.replace("server_name gpu1.example.org", "server_name localhost")
    folder, port = tmp_path_factory.mktemp("proxy"), parts.free_port()
    with proxies.nginx(folder, server, port, magid.port) as client:
        assert client.get("/magi").headers["location"].endswith("/magi/")
        with page.tab(chromium, magid) as tab:
            tab.page.goto(f"http://127.0.0.1:{port}/magi/")
            is_signed_out(tab)
            sign_in(tab, magid.make_token("distant", "admin"))
            tab.sees("2 servers ready")
            (cookie,) = tab.page.context.cookies()
            assert (cookie["path"], cookie["httpOnly"]) == ("/magi/", True)
            tab.page.get_by_role("link", name="Models").click()
            expect(tab.page.locator("td.col-name")).to_have_count(5)
            assert tab.said == []

"""Sessions of daemons of their own: without tokens, with the first, restarted, behind a proxy."""

import re
from contextlib import closing

import pytest

from tests.support import bundles, proxies
from tests.support.rest import Parts
from tests.support.running import ROOT
from tests.support.signing_in import PAGE, SHUT, Browser, make_link, statuses, until_it_ends


def test_without_tokens_none_is_needed(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    magid = parts.daemon(tmp_path_factory.mktemp("open"))
    magid.listen_locally()
    with magid, magid.client, closing(Browser(magid)) as browser:
        shown = browser.shown()
        assert (shown["signedIn"], shown["required"], shown["access"]) == (False, False, "admin")
        assert browser.sign_in(token="anything").status_code == 409
        assert browser.client.post("/api/models/apply?dryRun=true", json={}).status_code == 200
        made = make_link(magid)
        assert made == {
            "addresses": [f"{magid.url}/"], "path": "", "link": None, "expiresAt": None,
        }  # fmt: skip


def test_the_first_token_ends_what_was_open_without_one(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A stream that began before, and the session of a link, if TCP was open since."""
    magid = parts.daemon(tmp_path_factory.mktemp("first"))
    magid.listen_locally()
    with magid, magid.client, closing(Browser(magid)) as browser:
        with until_it_ends(browser, "/api/events"):
            magid.use_token(magid.make_token("first", "admin"))
            magid.ask("POST", "/api/models/rescan", {})  # the next event is the stream's end
        assert statuses(browser) == SHUT
        assert browser.sign_in(link=str(make_link(magid)["link"])).status_code == 200
        magid.make_token("second", "admin")
        assert browser.shown()["access"] == "admin"
        (magid.state / "tokens.json").unlink()
        magid.make_token("first", "admin")
        assert statuses(browser) == SHUT
        assert browser.shown()["access"] == "none"


def test_a_restart_ends_all_sessions(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    magid = parts.daemon(tmp_path_factory.mktemp("restart"))
    magid.listen_locally()
    with closing(Browser(magid)) as browser:
        with magid:
            token = magid.make_token("boss", "admin")
            browser.sign_in(token=token)
            assert browser.shown()["signedIn"] is True
        with magid:
            assert browser.shown()["signedIn"] is False
            assert browser.sign_in(token=token).status_code == 200
            value = next(iter(browser.client.cookies.values()))
            for path in magid.state.rglob("*"):
                assert value.encode() not in (path.read_bytes() if path.is_file() else b"")


@pytest.mark.slow  # it takes nginx
def test_behind_a_proxy_under_a_path(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As docs/page.md has it. The cookie has the path of the browser, and is for https alone."""
    document = (ROOT / "docs/page.md").read_text()
    (settings,) = re.findall(r"^```yaml\n(.*?)^```$", document, re.M | re.S)
    (server,) = re.findall(r"^```nginx\n(.*?)^```$", document, re.M | re.S)
    folder = tmp_path_factory.mktemp("proxied")
    magid = parts.daemon(folder, settings)
    magid.listen_locally()
    bundles.write(folder / "page")
    server = server.replace("$scheme", "https")
    with magid, proxies.nginx(folder, server, parts.free_port(), magid.port) as client:
        token = magid.make_token("boss", "admin")
        name = "gpu1.example.org"
        headers = {"Host": name, "Origin": f"https://{name}", **PAGE}
        page = client.get("/magi/", headers={"Host": name, "Accept": "text/html"})
        assert page.text == bundles.INDEX
        assert client.get(f"/magi/assets/{bundles.SCRIPT}", headers={"Host": name}).is_success
        answer = client.post("/magi/api/session", json={"token": token}, headers=headers)
        assert answer.status_code == 200, answer.text
        given = answer.headers["set-cookie"]
        assert given.startswith("__Secure-magi-session=")
        assert "; Path=/magi/;" in given
        assert given.endswith("; Secure")
        cookie = {**headers, "Cookie": given.partition(";")[0]}
        assert client.get("/magi/api/tokens", headers=cookie).status_code == 200
        assert client.get("/magi/v1/models", headers=cookie).status_code == 200
        with closing(Browser(magid)) as direct:  # from the proxy's machine, past the proxy
            assert "; Path=/;" in direct.sign_in(token=token).headers["set-cookie"]
            assert direct.shown()["signedIn"] is True

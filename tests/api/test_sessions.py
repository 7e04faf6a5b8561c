"""Sessions of browsers against a running daemon, on both sides of its port."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from magid.gateway.frontend.request_reader import parse_request_head
from tests.support import fleets
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import SMALL
from tests.support.rest import Parts
from tests.support.running import Running
from tests.support.signing_in import SHUT, Browser, make_link, statuses, until_it_ends

TOKENS = {"boss": ("admin",), "viewer": ("read",), "asker": ("infer",)}


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon whose TCP port needs tokens; `tokens` has them."""
    folder = tmp_path_factory.mktemp("sessions")
    with fleets.fleet(parts, folder, fleets.write_small, locally=True) as running:
        yield running


@pytest.fixture(scope="module")
def tokens(magid: Running) -> dict[str, str]:
    made = {name: magid.make_token(name, *scopes) for name, scopes in TOKENS.items()}
    made["few"] = magid.make_token("few", "infer", models=["nothing*"])
    magid.use_token(made["boss"])
    return made


@pytest.fixture
def browser(magid: Running, tokens: dict[str, str]) -> Iterator[Browser]:
    with closing(Browser(magid)) as browser:
        yield browser


RIGHTS = {
    "boss": {"read": 200, "change": 200, "list": 200, "ask": 200, "stop": 404, "tokens": 200},
    "viewer": {**dict.fromkeys(SHUT, 403), "read": 200},
    "asker": {**dict.fromkeys(SHUT, 403), "list": 200, "ask": 200},
    "few": {**dict.fromkeys(SHUT, 403), "list": 200, "ask": 404},
}
ACCESS = {"boss": "admin", "viewer": "read", "asker": "infer", "few": "infer"}


@pytest.mark.parametrize("name", RIGHTS)
def test_a_session_may_do_what_its_token_may(
    browser: Browser, tokens: dict[str, str], name: str
) -> None:
    assert statuses(browser) == SHUT
    assert browser.shown()["access"] == "none"
    answer = browser.sign_in(token=tokens[name])
    assert answer.status_code == 200
    assert tokens[name] not in answer.text
    assert statuses(browser) == RIGHTS[name]
    shown = browser.shown()
    assert shown == answer.json()
    assert (shown["signedIn"], shown["required"], shown["name"]) == (True, True, name)
    assert shown["access"] == ACCESS[name]
    assert shown["models"] == (["nothing*"] if name == "few" else None)
    out = browser.client.delete("/api/session")
    assert out.status_code == 200
    assert "Max-Age=0" in out.headers["set-cookie"]
    assert statuses(browser) == SHUT


def test_the_cookie_is_for_no_script_and_no_other_site(
    magid: Running, browser: Browser, tokens: dict[str, str]
) -> None:
    given = browser.sign_in(token=tokens["viewer"]).headers["set-cookie"]
    name, *attributes = given.split("; ")
    assert name.startswith(f"magi-session-{magid.port}=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert not [a for a in attributes if a.startswith("Domain")]


def test_an_ended_session_stays_ended(browser: Browser, tokens: dict[str, str]) -> None:
    """A copy of the cookie is worth nothing after the sign-out."""
    browser.sign_in(token=tokens["boss"])
    copied = dict(browser.client.cookies)
    browser.client.delete("/api/session")
    browser.client.cookies.update(copied)
    assert statuses(browser) == SHUT


def test_no_session_can_be_chosen_before_the_sign_in(
    magid: Running, browser: Browser, tokens: dict[str, str]
) -> None:
    """Session fixation: a value that another site has set begins no session and names none."""
    name = f"magi-session-{magid.port}"
    chosen = "A" * 43
    browser.client.cookies.set(name, chosen)
    assert statuses(browser) == SHUT
    given = browser.sign_in(token=tokens["boss"]).headers["set-cookie"]
    assert chosen not in given
    with closing(Browser(magid)) as other:
        other.client.cookies.set(name, chosen)
        assert statuses(other) == SHUT


def test_a_new_sign_in_ends_the_session_before(
    magid: Running, browser: Browser, tokens: dict[str, str]
) -> None:
    browser.sign_in(token=tokens["boss"])
    before = dict(browser.client.cookies)
    browser.sign_in(token=tokens["viewer"])
    assert browser.shown()["name"] == "viewer"
    with closing(Browser(magid)) as other:
        other.client.cookies.update(before)
        assert statuses(other) == SHUT


def test_a_session_ends_with_its_token_and_so_do_its_streams(
    magid: Running, browser: Browser
) -> None:
    token = magid.make_token("brief", "admin")
    browser.sign_in(token=token)
    with until_it_ends(browser, "/api/events"):
        assert magid.client.delete("/api/tokens/brief").status_code == 200
        magid.ask("POST", "/api/models/rescan", {})  # the next event is the stream's end
    assert statuses(browser) == SHUT


CHANGES = (
    ("POST", "/api/models/apply?dryRun=true"),
    ("PUT", f"/api/models/{SMALL}/tier"),
    ("DELETE", "/api/tokens/viewer"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/models/unload"),
    ("POST", "/api/chat"),
    ("DELETE", "/api/session"),
)


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "same-origin"},  # without the page's header
        {"X-Magi-Page": "1"},  # nothing says whose page it is
        {"X-Magi-Page": "0", "Sec-Fetch-Site": "same-origin"},
    ],
)
def test_a_change_needs_what_only_the_page_sends(
    magid: Running, browser: Browser, tokens: dict[str, str],
    method: str, path: str, headers: dict[str, str],
) -> None:  # fmt: skip
    browser.sign_in(token=tokens["boss"])
    cookie = "; ".join(f"{name}={value}" for name, value in browser.client.cookies.items())
    answer = httpx.request(
        method, f"{magid.url}{path}", json={}, headers={"Cookie": cookie, **headers},
        trust_env=False,
    )  # fmt: skip
    assert answer.status_code == 403
    assert "X-Magi-Page" in answer.text
    assert browser.shown()["signedIn"] is True


@pytest.mark.parametrize("path", ["/api/models/status", "/v1/models", "/api/tokens"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "same-site"},  # a page of another port on this host
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_what_another_port_reads_with_the_cookie_is_no_answer_of_the_session(
    magid: Running, browser: Browser, tokens: dict[str, str], path: str, headers: dict[str, str]
) -> None:
    browser.sign_in(token=tokens["boss"])
    client = browser.client
    del client.headers["Origin"]
    assert client.get(path).status_code == 200
    # What is for administrators is refused to every page of another site, with a session or none.
    refused = 403 if path == "/api/tokens" else 401
    assert client.get(path, headers=headers).status_code == refused


def test_a_token_wins_over_a_session(browser: Browser, tokens: dict[str, str]) -> None:
    """A wrong one too: what a program sends on purpose is what counts."""
    browser.sign_in(token=tokens["boss"])
    for path in ("/api/models/status", "/v1/models"):
        answer = browser.client.get(path, headers={"Authorization": "Bearer wrong"})
        assert answer.status_code == 401
    viewer = {"Authorization": f"Bearer {tokens['viewer']}"}
    assert browser.client.get("/api/tokens", headers=viewer).status_code == 403


def test_the_cookie_goes_to_no_models_server() -> None:
    """Of a request's headers only those of a list are passed on."""
    raw = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n"
        b"Cookie: magi-session=" + b"v" * 43 + b"\r\nX-Magi-Page: 1"
    )
    head = parse_request_head(raw, None)
    assert b"accept" in head.passed
    assert b"v" * 43 not in head.passed
    assert b"magi" not in head.passed


# -- links --------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [{}, {"token": "a", "link": "b"}, {"token": 1}, {"token": ""}])
def test_a_sign_in_has_a_token_or_a_link(browser: Browser, body: dict[str, object]) -> None:
    assert browser.client.post("/api/session", json=body).status_code == 400


def test_a_link_signs_in_once(magid: Running, browser: Browser) -> None:
    made = make_link(magid)
    assert made["addresses"] == [f"{magid.url}/"]
    assert made["path"] == f"#link={made['link']}"
    assert browser.sign_in(link=str(made["link"])).status_code == 200
    shown = browser.shown()
    assert (shown["access"], shown["name"]) == ("admin", "uid 0")
    assert statuses(browser) == RIGHTS["boss"]
    with closing(Browser(magid)) as other:
        assert other.sign_in(link=str(made["link"])).status_code == 401


def test_a_link_of_a_token_gives_its_rights(magid: Running, browser: Browser) -> None:
    made = make_link(magid, token="viewer")
    assert browser.sign_in(link=str(made["link"])).status_code == 200
    assert statuses(browser) == RIGHTS["viewer"]
    with magid.local() as client:
        assert client.post("/api/session/links", json={"token": "none"}).status_code == 404


def test_no_link_is_made_over_tcp(magid: Running, browser: Browser) -> None:
    assert magid.client.post("/api/session/links", json={}).status_code == 403
    made = make_link(magid)
    browser.sign_in(link=str(made["link"]))
    assert browser.client.post("/api/session/links", json={}).status_code == 403


def test_what_a_session_changes_is_logged_with_who_it_is(
    magid: Running, browser: Browser, tokens: dict[str, str]
) -> None:
    made = make_link(magid)
    browser.sign_in(link=str(made["link"]))
    browser.client.post("/api/models/rescan", json={})
    browser.sign_in(token=tokens["boss"])
    browser.client.post("/api/models/rescan", json={})
    entries = json.dumps(magid.get("/api/logs"))
    assert "uid 0, by a sign-in link" in entries
    assert "token boss" in entries
    assert str(made["link"]) not in entries
    for value in browser.client.cookies.values():
        assert value not in entries
        assert value not in magid.log.read_text()


# -- without sign-in -----------------------------------------------------------------------------


def test_the_unix_socket_needs_no_session(magid: Running, tokens: dict[str, str]) -> None:
    with magid.local() as client:
        shown = client.get("/api/session").json()
        assert (shown["signedIn"], shown["required"], shown["access"]) == (False, False, "admin")
        assert client.post("/api/session", json={"token": tokens["boss"]}).status_code == 409
        assert "set-cookie" not in client.delete("/api/session").headers
        assert client.get("/api/models/status").status_code == 200


# -- wrong sign-ins ------------------------------------------------------------------------------


def test_wrong_sign_ins_wait_and_the_right_one_does_not(
    magid: Running, browser: Browser, tokens: dict[str, str]
) -> None:
    """From one address: the right token is let in while the wrong ones still wait."""
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(_wrong(magid))) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        assert browser.sign_in(token=tokens["viewer"]).status_code == 200
    finally:
        for thread in threads:
            thread.join()
    assert answers == [401] * 6


def _wrong(magid: Running) -> int:
    answer = httpx.post(
        f"{magid.url}/api/session", json={"token": "magi_00000000_" + "x" * 43},
        trust_env=False, timeout=DEADLINE_S,
    )  # fmt: skip
    assert "set-cookie" not in answer.headers
    return answer.status_code

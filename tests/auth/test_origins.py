"""Host, Origin and header forms: who is answered, as tables."""

import pytest
from msgspec.structs import replace

from magid.auth import origins
from magid.config.addresses import TcpAddress, UnixAddress
from magid.errors import HostNotAllowed, InvalidInput, MagidError, NotAllowed
from magid.http import framing

POLICY = origins.Policy(
    frozenset({"localhost", "gpu1", "magi.example"}), frozenset({"http://ui.example:5173"})
)


def test_own_names_are_the_addresses_bound_to_and_the_configured_ones() -> None:
    policy = origins.make_policy(
        [TcpAddress("127.0.0.5", 80), TcpAddress("::1", 80), UnixAddress("/run/x")],
        ["Magi.Example"],
        ["https://UI.example/"],
    )
    assert {"localhost", "127.0.0.5", "::1", "magi.example"} <= policy.hosts
    assert policy.origins == {"https://ui.example"}


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:1", "127.1.2.3:8000", "[::1]",
        "[::1]:8000", "gpu1:80", "magi.example", "magi.example.", "ui.localhost:8000",
    ],
)  # fmt: skip
def test_hosts_of_ours(host: str) -> None:
    origins.check_host(host, POLICY)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "localhost.evil.example", "evil-localhost", "192.168.1.5", "10.0.0.1:8000",
        "[fe80::1]", "0.0.0.0:8000", "magi.example.evil", "127.0.0.1.evil.example", "[::ffff:1]",
        "169.254.169.254", "2130706433", "0x7f.1",
    ],
)  # fmt: skip
def test_foreign_hosts(host: str) -> None:
    with pytest.raises(HostNotAllowed, match="allowed_hosts"):
        origins.check_host(host, POLICY)


@pytest.mark.parametrize(
    "host",
    [None, "", " ", "local host", "localhost:", "localhost:x", "a@localhost", "localhost/x",
     "localhost\n", "[::1", "lo\u0441alhost", "localhost:123456", "localhost,evil"],
)  # fmt: skip
def test_malformed_hosts(host: str | None) -> None:
    with pytest.raises(InvalidInput, match="exactly one valid Host"):
        origins.check_host(host, POLICY)


SAME = {"host": "localhost:8000", "origin": "http://localhost:8000"}


@pytest.mark.parametrize(
    ("headers", "changes", "answer"),
    [
        ({"host": "localhost:8000"}, True, None),
        (SAME, True, None),
        ({**SAME, "sec-fetch-site": "same-origin"}, True, None),
        ({"host": "localhost:8000", "origin": "http://ui.example:5173"}, True,
         "http://ui.example:5173"),
        ({"host": "localhost:8000", "sec-fetch-site": "cross-site"}, False, None),  # a link
        ({"host": "localhost:8000", "sec-fetch-site": "none"}, True, None),  # typed by a person
    ],
)  # fmt: skip
def test_pages_that_are_answered(
    headers: dict[str, str], changes: bool, answer: str | None
) -> None:
    assert origins.check_origin(headers, POLICY, changes=changes) == answer


@pytest.mark.parametrize("changes", [True, False])
@pytest.mark.parametrize(
    "origin",
    [
        "null", "", "http://evil.example", "http://localhost:5173", "https://evil.example:8000",
        "http://ui.example", "http://localhost:8000.evil.example", "file://", "localhost:8000",
        "http://localhost:8000@evil.example", "chrome-extension://abc", "ws://localhost:8000",
        "http://[", "http://[::1", "http://]", "http://", "://", "http://[x]:y", "http://localhost:8000/",
    ],
)  # fmt: skip
def test_pages_of_others(origin: str, changes: bool) -> None:
    with pytest.raises(NotAllowed, match="allowed_origins"):
        origins.check_origin({"host": "localhost:8000", "origin": origin}, POLICY, changes=changes)


PROXIES = ["10.1.0.0/16", "127.0.0.1", "fd00::1"]


@pytest.mark.parametrize(
    ("address", "is_one"),
    [
        ("127.0.0.1", True), ("::ffff:127.0.0.1", True), ("10.1.2.3", True), ("fd00::1", True),
        ("fd00::1%eth0", True), ("127.0.0.2", False), ("10.2.0.1", False), ("::1", False),
        ("local", False), ("", False),
    ],
)  # fmt: skip
def test_which_peers_are_proxies(address: str, is_one: bool) -> None:
    policy = origins.make_policy([], [], [], PROXIES)
    assert policy.for_peer(address).is_proxied is is_one
    assert not origins.make_policy([], [], []).for_peer(address).is_proxied


PAGE = "http://magi.example:8080"
LOST_PORT = {"host": "magi.example", "origin": PAGE}
REWRITTEN = {"host": "localhost:8000", "origin": PAGE}


@pytest.mark.parametrize("headers", [LOST_PORT, REWRITTEN])
def test_a_page_behind_a_proxy_that_changes_the_host(headers: dict[str, str]) -> None:
    proxied = replace(POLICY, is_proxied=True)
    forwarded = {**headers, "x-forwarded-host": "Magi.Example:8080"}
    same = {**headers, "sec-fetch-site": "same-origin"}
    assert origins.check(same, POLICY, changes=True) is None
    assert origins.check(forwarded, proxied, changes=True) is None
    several = {**headers, "x-forwarded-host": "gpu1:1, magi.example:8080"}
    assert origins.check(several, proxied, changes=True) is None
    for refused, policy in (
        (headers, proxied), (forwarded, POLICY),
        ({**headers, "x-forwarded-host": "magi.example:8081"}, proxied),
        ({**headers, "sec-fetch-site": "same-site"}, proxied),
    ):  # fmt: skip
        with pytest.raises(NotAllowed, match="trusted_proxies"):
            origins.check(refused, policy, changes=True)


def test_a_rebound_name_in_front_of_a_proxy() -> None:
    headers = {"host": "localhost:8000", "origin": "http://evil.example"}
    with pytest.raises(HostNotAllowed):
        origins.check(
            {**headers, "x-forwarded-host": "evil.example"},
            replace(POLICY, is_proxied=True),
            changes=True,
        )
    with pytest.raises(InvalidInput):
        origins.check(
            {**headers, "x-forwarded-host": ""}, replace(POLICY, is_proxied=True), changes=True
        )


@pytest.mark.parametrize(
    "origin",
    ["app://obsidian.md", "chrome-extension://abc", "moz-extension://3c0f-9a0f", "tauri://localhost",
     "vscode-webview://0r9ocnhmg1pl"],
)  # fmt: skip
def test_pages_of_apps_are_answered_where_they_are_listed(origin: str) -> None:
    policy = origins.make_policy([], [], [origin])
    asked = {"host": "localhost:8000", "origin": origin}
    assert origins.check_origin(asked, policy, changes=True) == origin
    upper = {**asked, "origin": origin.upper()}
    assert origins.check_origin(upper, policy, changes=True) == origin.upper()
    with pytest.raises(NotAllowed):
        origins.check_origin({**asked, "origin": f"{origin}.x"}, policy, changes=True)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
def test_a_change_from_another_site_without_origin(site: str) -> None:
    """A link, say: its error does not send anybody to a setting that changes nothing."""
    with pytest.raises(NotAllowed, match="allowed_origins cannot let it through; paste the"):
        origins.check_origin(
            {"host": "localhost:8000", "sec-fetch-site": site}, POLICY, changes=True
        )


@pytest.mark.parametrize(
    "raw",
    [
        b"Host: a",
        b"Host: a\r\nAccept:\r\nX-A: b c\td",
        b"host:a\r\ncontent-length:3",
        b"Host: a\r\nAccept: x\r\nAccept: y",
        b"Host: a\r\nX-Utf8: \xc3\xa9",
    ],
)
def test_heads_that_can_be_read_in_one_way(raw: bytes) -> None:
    framing.check_fields(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"Host : a",
        b" Host: a",
        b"Host: a\r\n folded",
        b"Host: a\nX: b",
        b"Host: a\rX: b",
        b"Host: a\x00",
        b"\nHost: a",
        b"\rHost: a",
        b"\r\nHost: a",
        b"Host: a\n",
        b"Host: a\r",
        b"Host: a\r\n",
        b"Host: a\r\nHost: b",
        b"Host: a\r\nContent-Length: 1\r\nContent-Length: 1",
        b"Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x",
        b"Host: a\r\nnocolon",
        b"Host: a\r\nX\xc3\xa9: b",
        b"Host: a\r\n: b",
        b"",
    ],
)
def test_heads_that_two_parsers_could_read_differently(raw: bytes) -> None:
    with pytest.raises(MagidError, match="cannot read the request"):
        framing.check_fields(raw)


@pytest.mark.parametrize(
    ("requested", "allowed"),
    [
        ("x-stainless-lang,authorization", "x-stainless-lang,authorization"),
        ("X-A, x_b", "X-A, x_b"),
        (None, None),
        ("", None),
        ("a: b", None),
        ("caf\xe9", None),
    ],
)
def test_a_preflight_allows_the_headers_that_were_requested(
    requested: str | None, allowed: str | None
) -> None:
    headers = origins.preflight_headers({"POST", "GET"}, requested)
    assert headers["Access-Control-Allow-Methods"] == "GET, POST"
    assert headers.get("Access-Control-Allow-Headers") == allowed

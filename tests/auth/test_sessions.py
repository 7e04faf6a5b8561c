"""Sessions and links: how long they live, and with what they end; delays; the cookie."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from magid.auth import session_cookie, sessions, sign_in_delays
from magid.auth.session_cookie import cookie_for, credential_from_cookie
from magid.auth.sessions import Grant, Sessions
from magid.auth.sign_in_delays import SignInDelays
from magid.auth.token_store import TokenStore
from magid.auth.tokens import Scope, TokenLimits
from magid.errors import RateLimited

KEY = b"k" * 32


class Clock:
    """Seconds, which a test moves on."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path) -> TokenStore:
    store = TokenStore(tmp_path / "tokens.json")
    await store.load()
    await store.create("ci", [Scope.READ, Scope.INFER])
    await store.create("other", [Scope.ADMIN])
    return store


def grant_of(store: TokenStore, name: str) -> Grant:
    entry = store.named(name)
    assert entry is not None
    return Grant(entry.token.id, entry.digest)


# -- a session -----------------------------------------------------------------------------------


async def test_a_session_has_its_tokens_rights_and_name(store: TokenStore) -> None:
    found = Sessions(store)
    found.begin(KEY, grant_of(store, "ci"))
    session = found.find(KEY)
    assert session is not None
    assert session.scopes == {Scope.READ, Scope.INFER}
    assert session.caller.name == "ci"
    assert found.find(b"other") is None


async def test_it_ends_with_its_token(store: TokenStore) -> None:
    found = Sessions(store)
    session = found.begin(KEY, grant_of(store, "ci"))
    assert session is not None
    assert found.holds(session.caller)
    await store.revoke("ci")
    assert not found.holds(session.caller)
    assert found.find(KEY) is None
    await store.create("ci", [Scope.ADMIN])  # the name again, but another token
    assert found.find(KEY) is None


async def test_it_ends_when_its_token_expires(store: TokenStore) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=3600)
    await store.create("brief", [Scope.READ], expires_at=soon)
    found = Sessions(store)
    found.begin(KEY, grant_of(store, "brief"))
    assert found.find(KEY) is not None
    entry = store.named("brief")
    assert entry is not None
    entry.expires = 0.0
    assert found.find(KEY) is None


async def test_new_limits_of_its_token_count_and_end_no_session(store: TokenStore) -> None:
    found = Sessions(store)
    found.begin(KEY, grant_of(store, "ci"))
    before = found.find(KEY)
    assert before is not None
    caller = before.caller
    await store.limit("ci", TokenLimits(requests_per_minute=1))
    assert not found.holds(caller)  # a stream that began with other limits begins again
    session = found.find(KEY)
    assert session is not None
    assert session.caller.limits is not None
    assert session.caller.limits.requests_per_minute == 1


async def test_its_life_is_bounded_however_much_it_is_used(store: TokenStore, clock: Clock) -> None:
    found = Sessions(store, clock)
    found.begin(KEY, grant_of(store, "ci"))
    for _ in range(6):
        clock.now += sessions.IDLE_S - 1
        assert found.find(KEY) is not None
    clock.now = 1000 + sessions.LIFE_S
    assert found.find(KEY) is None


async def test_one_that_is_not_used_ends(store: TokenStore, clock: Clock) -> None:
    found = Sessions(store, clock)
    found.begin(KEY, grant_of(store, "ci"))
    clock.now += sessions.IDLE_S
    assert found.find(KEY) is None


async def test_sign_out_ends_it_once(store: TokenStore) -> None:
    found = Sessions(store)
    session = found.begin(KEY, grant_of(store, "ci"))
    assert session is not None
    assert found.end(KEY)
    assert not found.end(KEY)
    assert not found.holds(session.caller)


async def test_many_sign_ins_with_one_token_take_no_session_of_another(
    store: TokenStore,
) -> None:
    found = Sessions(store)
    found.begin(b"mine", grant_of(store, "other"))
    for number in range(2 * sessions.MAX_SESSIONS):
        found.begin(b"%d" % number, grant_of(store, "ci"))
    assert found.find(b"mine") is not None
    assert found.find(b"0") is None
    kept = [n for n in range(2 * sessions.MAX_SESSIONS) if found.find(b"%d" % n) is not None]
    assert len(kept) == sessions.MAX_SESSIONS


async def test_a_broken_token_file_lets_nobody_in_by_a_link_either(
    store: TokenStore, tmp_path: Path
) -> None:
    found = Sessions(store)
    found.begin(KEY, Grant(person="uid 0"))
    assert found.find(KEY) is not None
    (tmp_path / "tokens.json").write_text("broken")
    await store.load()
    assert found.find(KEY) is None


async def test_a_session_without_a_token_ends_when_tcp_is_closed_again(
    store: TokenStore, tmp_path: Path
) -> None:
    """So does a link; TCP is open meanwhile, so that no caller needs either."""
    found = Sessions(store)
    found.begin(KEY, Grant(person="uid 0"))
    unused = found.make_link(Grant(person="uid 0"))
    await store.create("third", [Scope.READ])
    assert found.find(KEY) is not None
    (tmp_path / "tokens.json").unlink()
    await store.load()
    assert store.is_open
    await store.create("new", [Scope.ADMIN])
    assert found.find(KEY) is None
    assert found.use_link(unused) is None
    found.begin(KEY, Grant(person="uid 0"))
    assert found.find(KEY) is not None


# -- links ---------------------------------------------------------------------------------------


async def test_a_link_is_used_once_and_soon(store: TokenStore, clock: Clock) -> None:
    found = Sessions(store, clock)
    link = found.make_link(Grant(person="uid 0"))
    assert found.use_link("wrong") is None
    assert found.use_link(link) == Grant(person="uid 0")
    assert found.use_link(link) is None
    late = found.make_link(Grant(person="uid 0"))
    clock.now += sessions.LINK_S
    assert found.use_link(late) is None


async def test_unused_links_are_bounded(store: TokenStore) -> None:
    found = Sessions(store)
    made = [found.make_link(Grant(person=str(n))) for n in range(sessions.MAX_LINKS + 1)]
    assert found.use_link(made[0]) is None
    assert found.use_link(made[-1]) is not None


# -- wrong sign-ins ------------------------------------------------------------------------------


def delay(delays: SignInDelays, peer: str) -> float:
    with delays.failed(peer) as seconds:
        return seconds


def test_wrong_sign_ins_wait_longer_each_time_up_to_a_bound(clock: Clock) -> None:
    delays = SignInDelays(clock)
    waits = [delay(delays, "10.0.0.1") for _ in range(12)]
    assert waits[:7] == [0, 0, 0, 0.5, 1, 2, 4]
    assert set(waits[7:]) == {8}
    assert delay(delays, "10.0.0.2") == 0  # another client's slip
    clock.now += 601
    assert delay(delays, "10.0.0.1") == 0


def test_a_network_of_ipv6_counts_as_one_client(clock: Clock) -> None:
    delays = SignInDelays(clock)
    waits = [delay(delays, f"2001:db8::{number:x}") for number in range(5)]
    assert waits == [0, 0, 0, 0.5, 1]
    assert sign_in_delays.network_of("::ffff:10.0.0.1") == "10.0.0.1"
    assert sign_in_delays.network_of("fe80::1%eth0") == "fe80::/64"
    assert sign_in_delays.network_of("unknown") == "unknown"


def test_who_waits_already_is_refused_at_once(clock: Clock) -> None:
    delays = SignInDelays(clock)
    waiting = [delays.failed("10.0.0.1") for _ in range(8)]
    for one in waiting:
        one.__enter__()
    with pytest.raises(RateLimited), delays.failed("10.0.0.1"):
        pass
    waiting[0].__exit__(None, None, None)
    assert delay(delays, "10.0.0.1") == 8


# -- the cookie ----------------------------------------------------------------------------------

HOST = "gpu1.example.org:8000"
VALUE = "v" * 43
OWN = {"host": HOST, "cookie": f"magi-session-8000={VALUE}", "x-magi-page": "1",
       "origin": f"http://{HOST}", "sec-fetch-site": "same-origin"}  # fmt: skip


@pytest.mark.parametrize(
    ("host", "path", "is_secure", "name"),
    [
        ("localhost:8000", "/", False, "magi-session-8000"),
        ("[::1]:8000", "/", False, "magi-session-8000"),
        ("gpu1.example.org", "/", True, "__Host-magi-session"),
        ("gpu1.example.org:8443", "/", True, "__Host-magi-session-8443"),
        ("gpu1.example.org", "/magi/", True, "__Secure-magi-session"),
        ("gpu1.example.org", "/magi/", False, "magi-session"),
    ],
)
def test_the_name_of_the_cookie(host: str, path: str, is_secure: bool, name: str) -> None:
    cookie = cookie_for(host, path, is_secure=is_secure)
    assert cookie.name == name
    text = cookie.header("v", 60)
    assert text.startswith(f"{name}=v; Path={path}; Max-Age=60; HttpOnly; SameSite=Strict")
    assert text.endswith("; Secure") is is_secure
    assert "Domain" not in text
    found = credential_from_cookie(
        {"host": host, "cookie": f"a=b; {name}={VALUE}"}, None, changes=False
    )
    assert found is not None
    assert found.digest == session_cookie.digest(name, VALUE)


def test_a_change_needs_what_only_the_page_sends() -> None:
    found = credential_from_cookie(OWN, None, changes=True)
    assert found is not None
    assert found.is_session
    assert not found.lacks
    for missing in ("x-magi-page",):
        lacking = {name: value for name, value in OWN.items() if name != missing}
        found = credential_from_cookie(lacking, None, changes=True)
        assert found is not None
        assert "X-Magi-Page" in found.lacks
        found = credential_from_cookie(lacking, None, changes=False)
        assert found is not None
        assert not found.lacks
    # An older browser sends no Sec-Fetch-Site, but an Origin; without either it may be a form.
    older = {name: value for name, value in OWN.items() if name != "sec-fetch-site"}
    found = credential_from_cookie(older, None, changes=True)
    assert found is not None
    assert not found.lacks
    del older["origin"]
    found = credential_from_cookie(older, None, changes=True)
    assert found is not None
    assert found.lacks


@pytest.mark.parametrize(
    ("change", "foreign"),
    [
        ({"sec-fetch-site": "same-site"}, None),  # another port of this host
        ({"sec-fetch-site": "cross-site"}, None),
        ({}, "https://ui.example"),  # one of allowed_origins
        ({"cookie": ""}, None),
        ({"cookie": "magi-session-8000=short"}, None),
        ({"cookie": f"magi-session-8001={VALUE}"}, None),  # another daemon's
        # Another server on this host has set a second one, so that the user acts in its session.
        ({"cookie": f"magi-session-8000={VALUE}; magi-session-8000={'w' * 43}"}, None),
        ({"cookie": f"__Host-magi-session-8000=x; magi-session-8000={VALUE}"}, None),
    ],
)
def test_a_cookie_that_does_not_count(change: dict[str, str], foreign: str | None) -> None:
    assert credential_from_cookie({**OWN, **change}, foreign, changes=False) is None


def test_one_under_another_name_is_another_one() -> None:
    """What plain http, or another host of the domain, may set is none of a session over https."""
    plain = session_cookie.digest("magi-session", VALUE)
    assert plain != session_cookie.digest("__Host-magi-session", VALUE)
    both = {**OWN, "cookie": f"magi-session-8000={'w' * 43}; __Host-magi-session-8000={VALUE}"}
    found = credential_from_cookie(both, None, changes=False)
    assert found is not None
    assert found.digest == session_cookie.digest("__Host-magi-session-8000", VALUE)

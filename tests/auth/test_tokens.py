"""Tokens without a daemon: what they are, what is kept, who gets in."""

import asyncio
import json
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from magid.auth import authenticator, token_store, tokens
from magid.auth.authenticator import Authenticator
from magid.auth.token_store import TokenStore
from magid.auth.tokens import Credential, Scope
from magid.errors import (
    InvalidInput,
    NotAllowed,
    NotReady,
    TokenExists,
    TokenNotFound,
    TokensUnusable,
    Unauthenticated,
)

NOW = datetime.now(UTC)
PEER = "192.0.2.7"


def shown(secret: str) -> Credential:
    presented = tokens.credential_from_headers(f"Bearer {secret}".encode(), None)
    assert presented
    return presented


async def store_of(folder: Path) -> TokenStore:
    store = TokenStore(folder / token_store.NAME)
    await store.load()
    return store


# -- what it looks like ------------------------------------------------------------------------


def test_a_token_is_random_and_its_hash_tells_nothing() -> None:
    made = [tokens.make("ci", [Scope.READ]) for _ in range(100)]
    secrets = {secret for _, secret in made}
    assert len({secret[14:] for secret in secrets}) == 100
    token, secret = made[0]
    assert secret.startswith(f"magi_{token.id}_")
    assert len(secret) == 57
    assert secret[14:] not in repr(token) + repr(shown(secret))
    assert shown(secret).digest.hex() == token.sha256
    assert shown(secret).id == token.id


@pytest.mark.parametrize(
    ("authorization", "api_key", "held"),
    [
        (b"Bearer X", None, b"X"),
        (b"bearer   X ", None, b"X"),
        (b"Bearer X", b"Y", b"X"),
        (None, b"Y", b"Y"),
        (b"", b"Y", b"Y"),
        (b"Basic X", None, b"Basic X"),  # is no token, and counts as a failed one
        (b"Bearer ", None, None),
        (None, None, None),
        (None, b"", None),
    ],
)
def test_what_headers_show(
    authorization: bytes | None, api_key: bytes | None, held: bytes | None
) -> None:
    presented = tokens.credential_from_headers(authorization, api_key)
    expected = None if held is None else tokens.credential_from_headers(None, held)
    assert presented == expected
    assert (presented is None) is (held is None)


def test_names_scopes_and_dates_are_checked() -> None:
    with pytest.raises(InvalidInput, match="that is in the past"):
        tokens.make("ci", [Scope.READ], expires_at=NOW - timedelta(seconds=5))
    for scopes, models in (([Scope.ADMIN, Scope.INFER], ["x"]), ([Scope.READ], ["x"])):
        with pytest.raises(InvalidInput, match="the limit applies only to the gateway"):
            tokens.make("ci", scopes, models=models)
    with pytest.raises(InvalidInput, match="auto, which is not a model"):
        tokens.make("ci", [Scope.INFER], models=["auto"])
    for name in ("", "../x", "-x", "a b", "x" * 64, "a\n"):
        with pytest.raises(InvalidInput, match="name"):
            tokens.make(name, [Scope.READ])
    assert tokens.make("ci", [Scope.READ, Scope.READ])[0].scopes == (Scope.READ,)


@pytest.mark.parametrize(
    "written",
    ["9999-12-31T23:59:59-12:00", "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+12:00"],
)
async def test_a_file_may_hold_any_date(tmp_path: Path, written: str) -> None:
    """One that UTC does not have becomes the nearest that it has, and all tokens are shown."""
    token, secret = tokens.make("odd", [Scope.READ])
    moment = datetime.fromisoformat(written)
    odd = replace(token, created_at=moment, expires_at=moment, last_used_at=moment)
    (tmp_path / token_store.NAME).write_bytes(tokens.serialise([odd]))
    store = await store_of(tmp_path)
    (entry,) = store.all
    listed = tokens.shown(entry, NOW)
    nearest = "0001-01-01T00:00:00Z" if moment.year == 1 else "9999-12-31T23:59:59Z"
    assert {listed["createdAt"], listed["expiresAt"], listed["lastUsedAt"]} == {nearest}
    assert listed["expired"] is (moment.year == 1)
    assert store.find(shown(secret))
    await store.create("next", [Scope.READ])  # the file is written with all of them
    assert [each.name for each in (await store_of(tmp_path)).all] == ["next", "odd"]


def test_what_cannot_be_shown_or_written_is_not_made() -> None:
    """Else its secret would be lost with the answer, and no list of tokens would work again."""
    east = datetime.fromisoformat("2100-01-01T00:00:00+12:00")
    assert tokens.make("ci", [Scope.READ], expires_at=east)[0].expires_at == east
    for year in ("9999-12-31T23:59:59-12:00", "9999-12-31T23:00:00-01:00"):
        with pytest.raises(InvalidInput, match="beyond the year 9999") as refused:
            tokens.make("ci", [Scope.READ], expires_at=datetime.fromisoformat(year))
        assert refused.value.details["field"] == "expiresAt"
    first = datetime.fromisoformat("0001-01-01T00:00:00+12:00")
    with pytest.raises(InvalidInput, match="is in the past"):
        tokens.make("ci", [Scope.READ], expires_at=first)
    for name in ("\udcff", "fast\ud800"):
        with pytest.raises(InvalidInput, match="not valid Unicode") as refused:
            tokens.make("ci", [Scope.INFER], models=["fast", name])
        assert refused.value.message.isprintable()


# -- the store ---------------------------------------------------------------------------------


async def test_a_token_survives_a_restart_and_a_revoked_one_does_not(tmp_path: Path) -> None:
    store = await store_of(tmp_path)
    assert store.is_open
    _, kept = await store.create("kept", [Scope.READ], expires_at=NOW + timedelta(days=1))
    _, gone = await store.create("gone", [Scope.INFER], models=["fast"])
    with pytest.raises(TokenExists, match="magictl token revoke kept"):
        await store.create("kept", [Scope.READ])
    await store.revoke("gone")
    with pytest.raises(TokenNotFound):
        await store.revoke("gone")
    path = tmp_path / token_store.NAME
    assert path.stat().st_mode & 0o777 == 0o600
    for secret in (kept, gone):
        assert secret[14:] not in path.read_text()
    later = await store_of(tmp_path)
    assert [token.name for token in later.all] == ["kept"]
    assert later.find(shown(kept))
    assert later.find(shown(gone)) is None
    assert later.find(shown(kept[:-1] + ("a" if kept[-1] != "a" else "b"))) is None
    assert os.listdir(tmp_path) == [token_store.NAME]  # noqa: PTH208  # this blocks nobody


async def test_it_stays_closed_when_the_last_one_is_revoked(tmp_path: Path) -> None:
    store = await store_of(tmp_path)
    await store.create("only", [Scope.ADMIN])
    await store.revoke("only")
    for each in (store, await store_of(tmp_path)):
        assert not each.is_open
        assert not each.requires_token  # so that nothing listens to other machines
        with pytest.raises(Unauthenticated):
            Authenticator(each).authenticate(None, Scope.READ, PEER)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"null",
        b'{"format": 2, "tokens": []}',
        b'{"format": 1, "tokens": [{"name": "x"}]}',
        b"\xff" * 10,
        b'{"format": 1, "tokens": []' + b" " * 5_000_000 + b"}",
    ],
)
async def test_a_broken_file_keeps_everybody_out_and_stays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / token_store.NAME
    path.write_bytes(content)
    store = await store_of(tmp_path)
    assert store.problem
    assert str(path) in store.problem.message
    auth = Authenticator(store)
    with pytest.raises(NotReady, match="cannot check your token"):
        auth.authenticate(shown(tokens.mint()[0]), Scope.READ, PEER)
    with pytest.raises(Unauthenticated):
        auth.authenticate(None, Scope.READ, PEER)
    assert auth.authenticate(None, Scope.ADMIN, None) is authenticator.LOCAL  # the unix socket
    for change in (store.create("x", [Scope.READ]), store.revoke("x")):
        with pytest.raises(TokensUnusable):
            await change
    assert path.read_bytes() == content
    path.unlink()
    await store.load()
    assert store.is_open


async def test_two_of_one_name_or_id_and_dead_links_are_broken_files(tmp_path: Path) -> None:
    path = tmp_path / token_store.NAME
    token = tokens.make("ci", [Scope.READ])[0]
    for twin in (tokens.make("ci", [Scope.READ])[0], replace(token, name="other")):
        path.write_bytes(tokens.serialise([token, twin]))
        with pytest.raises(TokensUnusable, match="two tokens have the same"):
            token_store.read(path)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(TokensUnusable, match="a link to a file that does not exist"):
        token_store.read(path)


async def test_an_edit_by_hand_is_kept_by_the_next_change(tmp_path: Path) -> None:
    store = await store_of(tmp_path)
    _, first = await store.create("first", [Scope.READ])
    await store.create("second", [Scope.READ])
    path = tmp_path / token_store.NAME
    document = json.loads(path.read_text())
    document["tokens"] = [t for t in document["tokens"] if t["name"] != "first"]
    path.with_name("new").write_text(json.dumps(document))
    path.with_name("new").rename(path)
    await store.create("third", [Scope.READ])
    assert [token.name for token in store.all] == ["second", "third"]
    assert store.find(shown(first)) is None


async def test_the_last_use_is_written_later_and_only_if_it_changed(tmp_path: Path) -> None:
    store = await store_of(tmp_path)
    _, secret = await store.create("ci", [Scope.READ])
    path = tmp_path / token_store.NAME
    before = path.stat().st_ino
    Authenticator(store).authenticate(shown(secret), Scope.READ, PEER)
    assert path.stat().st_ino == before  # no write for a request
    assert store.all[0].last_used_at
    await store.flush()
    after = path.stat().st_ino
    assert after != before
    await store.flush()
    assert path.stat().st_ino == after
    stored = (await store_of(tmp_path)).all[0]
    assert stored.last_used_at == store.all[0].last_used_at


async def test_changes_at_once_all_count(tmp_path: Path) -> None:
    store = await store_of(tmp_path)
    await asyncio.gather(*(store.create(f"t{n}", [Scope.READ]) for n in range(10)))
    assert len((await store_of(tmp_path)).all) == 10


# -- the auth ----------------------------------------------------------------------------------


@pytest.mark.parametrize("given", Scope)
@pytest.mark.parametrize("need", Scope)
async def test_admin_has_the_others_in_it_and_they_nothing_of_each_other(
    tmp_path: Path, given: Scope, need: Scope
) -> None:
    store = await store_of(tmp_path)
    _, secret = await store.create("ci", [given])
    auth = Authenticator(store)
    if given in (need, Scope.ADMIN):
        assert auth.authenticate(shown(secret), need, PEER).name == "ci"
    else:
        with pytest.raises(NotAllowed, match=rf"its scope is {given}, but this needs {need}"):
            auth.authenticate(shown(secret), need, PEER)


async def test_what_has_expired_or_is_revoked_is_out_at_once(tmp_path: Path) -> None:
    path = tmp_path / token_store.NAME
    old, expired = tokens.make(
        "old", [Scope.READ], now=NOW - timedelta(days=2), expires_at=NOW - timedelta(days=1)
    )
    token_store.write(path, (old,))
    store = await store_of(tmp_path)
    _, secret = await store.create("ci", [Scope.READ])
    auth = Authenticator(store)
    with pytest.raises(Unauthenticated):
        auth.authenticate(shown(expired), Scope.READ, PEER)
    caller = auth.authenticate(shown(secret), Scope.READ, PEER)
    assert auth.is_valid(caller)
    assert auth.is_valid(authenticator.LOCAL)
    await store.create("other", [Scope.READ])
    assert auth.is_valid(caller)
    await store.revoke("ci")
    assert not auth.is_valid(caller)
    with pytest.raises(Unauthenticated):
        auth.authenticate(shown(secret), Scope.READ, PEER)


async def test_failures_are_logged_once_a_minute_for_each_peer_without_the_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = await store_of(tmp_path)
    await store.create("ci", [Scope.READ])
    auth = Authenticator(store)
    guesses = [tokens.mint()[0] for _ in range(50)]
    with caplog.at_level(logging.WARNING):
        for guess in guesses:
            for peer in (PEER, "192.0.2.8"):
                with pytest.raises(Unauthenticated):
                    auth.authenticate(shown(guess), Scope.READ, peer)
    assert [r.getMessage() for r in caplog.records] == [
        f"refused {peer}: its token is unknown" for peer in (PEER, "192.0.2.8")
    ]


@pytest.mark.parametrize(
    "query",
    ["token=x", "a=1&api_key=x", "TOKEN=x", f"q={tokens.mint()[0]}", "key=x"],
    ids=["token", "api_key", "TOKEN", "a real one", "key"],
)
def test_a_token_in_a_url_is_refused_and_not_repeated(query: str) -> None:
    with pytest.raises(InvalidInput, match="URLs get into logs") as caught:
        authenticator.check_url(query)
    assert "magi_" not in caught.value.message


@pytest.mark.parametrize("query", ["", "wait=3", "beta=true", "grep=token", "monkey=1"])
def test_other_queries_pass(query: str) -> None:
    authenticator.check_url(query)

"""Sessions of the page in browsers, and the links that begin one. Lives on the event loop.

A session has its token's rights and ends with it. One without a token ends when TCP is opened and
closed again, and so does an unused link: a first token keeps out earlier callers. All
are in memory, as hashes: a restart of magid ends them. To outlive it they would have to be on disk,
written at each sign-in; signing in again costs a person a few seconds, and a restart is the way to
end all sessions at once.
"""

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from magid.auth.token_store import Caller, TokenEntry, TokenStore
from magid.auth.tokens import Scope

LIFE_S = 7 * 86_400.0  # of a session, however much it is used
IDLE_S = 86_400.0  # without a request; an open stream of events counts as one
LINK_S = 120.0  # in which a link has to be used
MAX_SESSIONS = 100  # of one token; the one unused for longest makes room
MAX_LINKS = 32  # unused ones; the oldest makes room


class Grant(Struct, frozen=True):
    """What a sign-in gives: the rights of a token, or of an administrator's link without one."""

    token: str = ""  # its id; empty: all rights
    digest: bytes = b""  # of the token
    person: str = ""  # who made the link


class Session(Struct):
    """One signed-in browser. Times are those of the monotonic clock."""

    key: bytes
    grant: Grant
    caller: Caller
    scopes: frozenset[Scope]
    ends: float
    used: float
    expires_at: datetime
    closings: int  # the store's, when it began


class Link(Struct, frozen=True):
    """An unused link: what it gives, and until when, on the monotonic clock."""

    grant: Grant
    ends: float
    closings: int  # the store's, when it was made


class Sessions:
    """All sessions and unused links. `clock` counts seconds and never goes back."""

    def __init__(self, store: TokenStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._by_key: OrderedDict[bytes, Session] = OrderedDict()  # longest unused first
        self._links: OrderedDict[bytes, Link] = OrderedDict()

    def begin(self, key: bytes, grant: Grant) -> Session | None:
        """Begins a session that `key`, the digest of its cookie, finds; None: its token is gone."""
        now = self._clock()
        entry = self._entry(grant)
        if grant.token and entry is None:
            return None
        self._make_room(grant, now)
        session = Session(
            key, grant, Caller(), frozenset(Scope), now + LIFE_S, now,
            datetime.now(UTC) + timedelta(seconds=LIFE_S), self._store.closings,
        )  # fmt: skip
        _renew(session, entry)
        self._by_key[key] = session
        return session

    def find(self, key: bytes) -> Session | None:
        """Returns the session, which counts as used; None if it has ended, or never was."""
        session = self._by_key.get(key)
        if session is None:
            return None
        now = self._clock()
        entry = self._entry(session.grant)
        if _is_over(session, now) or not self._is_granted(session, entry):
            del self._by_key[key]
            return None
        if not session.grant.token and self._store.problem is not None:
            return None  # no caller is let in over TCP meanwhile
        _renew(session, entry)
        session.used = now
        self._by_key.move_to_end(key)
        return session

    def holds(self, caller: Caller) -> bool:
        """Whether the caller's session goes on, with the rights that it had."""
        session = self.find(caller.session)
        return session is not None and session.caller is caller

    def end(self, key: bytes) -> bool:
        """Ends the session; whether there was one."""
        return self._by_key.pop(key, None) is not None

    def make_link(self, grant: Grant) -> str:
        """Returns the secret of a link that begins one session, within LINK_S."""
        secret = secrets.token_urlsafe(32)
        link = Link(grant, self._clock() + LINK_S, self._store.closings)
        self._links[_digest(secret)] = link
        if len(self._links) > MAX_LINKS:
            self._links.popitem(last=False)
        return secret

    def use_link(self, secret: str) -> Grant | None:
        """Returns what the link gives, this once; None if it is used, too old or unknown."""
        link = self._links.pop(_digest(secret), None)
        if link is None or self._clock() >= link.ends:
            return None
        return link.grant if link.closings == self._store.closings else None

    def _is_granted(self, session: Session, entry: TokenEntry | None) -> bool:
        """Whether what the session came from still stands: its token, or the same closed port."""
        if session.grant.token:
            return entry is not None
        return session.closings == self._store.closings

    def _entry(self, grant: Grant) -> TokenEntry | None:
        """Returns the session's token, unless it is revoked or has expired."""
        entry = self._store.entry(grant.token)
        is_same = entry is not None and entry.digest == grant.digest
        return entry if entry and is_same and time.time() < entry.expires else None

    def _make_room(self, grant: Grant, now: float) -> None:
        for session in [s for s in self._by_key.values() if _is_over(s, now)]:
            del self._by_key[session.key]
        own = [s.key for s in self._by_key.values() if s.grant.token == grant.token]
        for key in own[: max(0, len(own) + 1 - MAX_SESSIONS)]:
            del self._by_key[key]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()


def _is_over(session: Session, now: float) -> bool:
    return now >= session.ends or now >= session.used + IDLE_S


def _renew(session: Session, entry: TokenEntry | None) -> None:
    """Gives the session the rights and limits that its token has now."""
    if entry is None:
        made = Caller(session=session.key, person=session.grant.person)
    else:
        made = replace(entry.caller, session=session.key)
        session.scopes = entry.scopes
    if made != session.caller:
        session.caller = made

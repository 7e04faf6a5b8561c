"""Authenticates a request, for the API and the gateway, before its body is read.

A caller on a unix socket may do everything, or read on that of the group magi-view: the socket's
mode and group control access. Over TCP, a token is required as soon as one exists. The scope
`admin` includes the others; `read` and `infer` are independent.
"""

import logging
import re
import time
from collections import OrderedDict
from collections.abc import Iterable

from magid.auth.sessions import Session, Sessions
from magid.auth.token_store import Caller, TokenEntry, TokenStore
from magid.auth.tokens import Credential, Scope
from magid.errors import InvalidInput, NotAllowed, NotReady, Unauthenticated

log = logging.getLogger(__name__)

LOG_S = 60.0  # at most one line per peer in this time
_PEERS = 1024  # remembered for that
# Secrets in URLs get into logs, browser histories and Referer headers.
_IN_URL = re.compile(r"(?:^|&)(?:token|access_token|api_key|api-key|key)=", re.IGNORECASE)
_TOKEN = re.compile(r"magi_[0-9a-f]{8}_[0-9A-Za-z]{43}")


LOCAL = Caller()
VIEWER = Caller()  # over the socket of the group magi-view
UNIDENTIFIED = Caller()  # over TCP, as long as no token was made


def admit_viewer(need: Scope) -> Caller:
    """Returns the caller over the socket of the group magi-view. Raises NotAllowed but to read."""
    if need is not Scope.READ:
        raise NotAllowed(
            "cannot do this over the socket of the group magi-view: its members may only read; "
            "join the group magi"
        )
    return VIEWER


class Authenticator:
    """Finds the caller of a request, and checks its scope. One for all connections."""

    def __init__(self, store: TokenStore) -> None:
        self._store = store
        self.sessions = Sessions(store)
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def authenticate(self, presented: Credential | None, need: Scope, peer: str | None) -> Caller:
        """Returns the caller, if its token or session has the scope.

        `peer` is None on a unix socket.

        Raises Unauthenticated, NotAllowed if the scope is missing, NotReady while the token file
        cannot be used.
        """
        store = self._store
        if peer is None:
            return LOCAL
        if store.is_open:
            return UNIDENTIFIED
        if presented is None:
            raise Unauthenticated(
                "cannot answer without a token: send Authorization: Bearer TOKEN (or x-api-key: "
                "TOKEN); magictl token create makes one"
            )
        if presented.is_session:
            session = self.session(presented)
            if need not in session.scopes:
                raise _out_of_scope(session.caller.name, session.scopes, need)
            return session.caller
        entry = self.entry(presented, peer)
        if need not in entry.scopes:
            raise _out_of_scope(entry.token.name, entry.token.scopes, need)
        return entry.caller

    def entry(self, presented: Credential, peer: str) -> TokenEntry:
        """Returns the entry of a valid token, which counts as used.

        Raises Unauthenticated, NotReady.
        """
        entry = self._store.find(presented)
        now = time.time()
        if entry is None or now >= entry.expires:
            raise self._unknown(entry, peer)
        entry.used = now
        return entry

    def session(self, presented: Credential) -> Session:
        """Returns the session of a cookie. Raises NotAllowed if the request may not act with it."""
        session = self.sessions.find(presented.digest)
        if session is None:
            raise Unauthenticated(
                "cannot answer: this session has ended; sign in again, with a token or with "
                "magictl open"
            )
        if presented.lacks:
            raise NotAllowed(presented.lacks)
        entry = self._store.entry(session.grant.token)
        if entry is not None:
            entry.used = time.time()
        return session

    def is_valid(self, caller: Caller) -> bool:
        """Whether the caller may still be answered. For endless answers, such as event streams."""
        if caller.session:
            return self.sessions.holds(caller)
        if caller is UNIDENTIFIED:
            return self._store.is_open
        return caller is LOCAL or caller is VIEWER or self._store.holds(caller)

    def _unknown(self, entry: TokenEntry | None, peer: str) -> Exception:
        why = "unknown" if entry is None else f"{entry.token.name}, which has expired"
        self._log_failure(peer, why)
        if self._store.problem is not None:
            return NotReady(
                "cannot check your token: magid's token file cannot be used; its administrator "
                "finds the reason in magid's log"
            )
        return Unauthenticated(
            "cannot answer: this token is unknown, revoked or expired; magictl token ls lists the "
            "tokens, magictl token create makes a new one"
        )

    def _log_failure(self, peer: str, why: str) -> None:
        """Logs at most one line a minute for each peer: an attack must not fill the log."""
        now = time.monotonic()
        last, suppressed = self._failures.get(peer, (-LOG_S, 0))
        if now - last < LOG_S:
            self._failures[peer] = (last, suppressed + 1)
            return
        more = f"; {suppressed} more were not logged" if suppressed else ""
        log.warning("refused %s: its token is %s%s", peer, why, more)
        self._failures[peer] = (now, 0)
        self._failures.move_to_end(peer)
        if len(self._failures) > _PEERS:
            self._failures.popitem(last=False)


def _out_of_scope(name: str, scopes: Iterable[Scope], need: Scope) -> NotAllowed:
    return NotAllowed(
        f"cannot do this with token {name!r}: its scope is {', '.join(scopes)}, but this needs "
        f"{need}; use another one, or make one: magictl token create --scope {need}",
        scope=str(need),
    )


def check_url(query: str) -> None:
    """Raises InvalidInput, without the secret in its text, if the query contains a secret."""
    if query and (_IN_URL.search(query) or _TOKEN.search(query)):
        raise InvalidInput(
            "cannot accept a token in the URL: URLs get into logs; send it as Authorization: "
            "Bearer TOKEN, and replace it, because it may be in a log already"
        )

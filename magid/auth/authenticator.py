"""Who asks, and what it may do: one decision for the API and the gateway, before anything is read.

Who comes over a unix socket may do everything: the file's mode and group have decided. Over TCP a
token decides from the moment that one exists. The scope `admin` has the others in it; `read` and
`infer` have nothing of each other.
"""

import logging
import re
import time
from collections import OrderedDict

from magid.auth.token_store import Caller, TokenEntry, TokenStore
from magid.auth.tokens import Credential, Scope
from magid.errors import InvalidInput, NotAllowed, NotReady, Unauthenticated

log = logging.getLogger(__name__)

LOG_S = 60.0  # of one peer's failures at most one line in so long
_PEERS = 1024  # that are remembered for it
# A secret in a URL ends in logs, histories and Referer headers.
_IN_URL = re.compile(r"(?:^|&)(?:token|access_token|api_key|api-key|key)=", re.IGNORECASE)
_LOOKS_LIKE_ONE = re.compile(r"magi_[0-9a-f]{8}_[0-9A-Za-z]{43}")


LOCAL = Caller()


class Authenticator:
    """Lets callers in. One for all connections."""

    def __init__(self, book: TokenStore) -> None:
        self._book = book
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def enter(self, presented: Credential | None, need: Scope, peer: str | None) -> Caller:
        """Who this is, if it may. `peer` is the address, None on a unix socket.

        Raises Unauthenticated, NotAllowed for another scope, NotReady while
        the file of tokens cannot be used.
        """
        book = self._book
        if peer is None or book.is_open:
            return LOCAL
        if presented is None:
            raise Unauthenticated(
                "cannot answer without a token: send Authorization: Bearer TOKEN (x-api-key: TOKEN "
                "is taken too); magictl token create makes one"
            )
        entry = book.find(presented)
        now = time.time()
        if entry is None or now >= entry.expires:
            raise self._unknown(entry, peer)
        entry.used = now
        if need not in entry.scopes:
            token = entry.token
            raise NotAllowed(
                f"cannot do this with token {token.name!r}: it is for {', '.join(token.scopes)}, "
                f"and this needs {need}; use another one, or make one: magictl token create "
                f"--scope {need}",
                scope=str(need),
            )
        return entry.caller

    def still_lets_in(self, caller: Caller) -> bool:
        """For answers that go on and on: whether the token has not been revoked meanwhile."""
        return caller is LOCAL or self._book.holds(caller)

    def _unknown(self, entry: TokenEntry | None, peer: str) -> Exception:
        why = "unknown" if entry is None else f"{entry.token.name}, which has expired"
        self._note_failure(peer, why)
        if self._book.problem is not None:
            return NotReady(
                "cannot tell who you are: magid's file of tokens cannot be used; its administrator "
                "finds the reason in magid's log"
            )
        return Unauthenticated(
            "cannot answer: this token is not known, was revoked or has expired; magictl token ls "
            "lists those that count, magictl token create makes a new one"
        )

    def _note_failure(self, peer: str, why: str) -> None:
        """One line a minute for each peer: an attack must not fill the log."""
        now = time.monotonic()
        last, left_out = self._failures.get(peer, (-LOG_S, 0))
        if now - last < LOG_S:
            self._failures[peer] = (last, left_out + 1)
            return
        more = f"; {left_out} more since the last such line" if left_out else ""
        log.warning("refused %s: its token is %s%s", peer, why, more)
        self._failures[peer] = (now, 0)
        self._failures.move_to_end(peer)
        if len(self._failures) > _PEERS:
            self._failures.popitem(last=False)


def check_url(query: str) -> None:
    """Raises InvalidInput for a secret in the query, without repeating it."""
    if query and (_IN_URL.search(query) or _LOOKS_LIKE_ONE.search(query)):
        raise InvalidInput(
            "cannot take a token in the URL: URLs end in logs; send it as Authorization: Bearer "
            "TOKEN, and make a new one, as this one may be in a log already"
        )

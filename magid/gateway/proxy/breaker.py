"""Whether a server gets requests, by what magid itself found out about it. Pure.

What happens to a request only casts doubt on its server, because the request may be the cause:
after a few failures magid asks the server by itself. A server is left out when it cannot be
connected to, does not answer /health, or fails a request of magid's own. It comes back when magid
finds it well again, after a pause that doubles each time.
"""

import errno
from dataclasses import dataclass

FAILURES = 3  # of requests, with none that went well between them: then magid asks by itself
FIRST_S, MAX_S = 1.0, 30.0


# What llama-server 0.7.0 says, with status 500, of a request that it does not understand.
_BLAMES = (
    b'"Failed to parse ',
    b"[json.exception.",
    b" input is not supported",
    b"invalid_request",
)
_NOT_IMPLEMENTED = 501  # for a model of this kind, as embeddings of one without them


def blames_request(status: int, body: bytes) -> bool:
    """Whether an answer of status 5xx says that the request is at fault; `body` is its start."""
    return status == _NOT_IMPLEMENTED or any(words in body for words in _BLAMES)


# Of magid when it connects, as where clients have used up its descriptors.
_OWN_TROUBLE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def is_own_trouble(error: BaseException | None) -> bool:
    """Whether magid could not even try to connect: no fault of the server."""
    return isinstance(error, OSError) and error.errno in _OWN_TROUBLE


@dataclass(slots=True)
class Breaker:
    """Of one server process. Closed: it gets requests; open: it gets none."""

    failures: int = 0  # of requests, since the last one that went well
    open_until: float | None = None  # not closed before
    trips: int = 0
    reason: str = ""
    needs_work: bool = False  # it is open because the server failed a request of magid's own

    @property
    def is_open(self) -> bool:
        return self.open_until is not None

    def request_failed(self) -> bool:
        """Whether magid should ask the server by itself."""
        self.failures += 1
        return self.failures >= FAILURES

    def request_succeeded(self) -> None:
        self.failures = 0
        if not self.is_open:
            self.trips = 0

    def opens(self, now: float, reason: str, *, needs_work: bool = False) -> bool:
        """Whether it was closed before."""
        was_closed = not self.is_open
        if was_closed or now >= (self.open_until or 0.0):
            self.open_until = now + min(MAX_S, FIRST_S * 2**self.trips)
            self.trips += 1
            self.reason = reason
        self.needs_work = self.needs_work or needs_work
        return was_closed

    def found_well(self, now: float, *, by_work: bool = False) -> None:
        """By magid itself: at /health, or by work it was given."""
        if by_work:
            self.failures = 0
        if self.open_until is None or now < self.open_until or (self.needs_work and not by_work):
            return
        self.open_until, self.needs_work, self.reason = None, False, ""

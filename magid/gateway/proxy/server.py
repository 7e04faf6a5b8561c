"""One server as the gateway uses it: its connections, what it works on, and its circuit breaker.

What happens to a request only casts doubt on its server, because the request may be the cause:
after a few failures magid asks the server by itself. A server is left out when it cannot be
connected to, does not answer /health, or fails a request of magid's own. It comes back when magid
finds it well again, after a pause that doubles each time.
"""

import errno
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from magid.gateway.accounting.request_log import Record
from magid.gateway.proxy.upstream import ConnectionPool
from magid.gateway.routing.endpoints import Endpoint
from magid.gateway.routing.fleet import Backend
from magid.gateway.routing.outline import Body, Buffer
from magid.gateway.routing.request import ParsedRequest
from magid.llama.connection import authorization
from magid.log.events import Event, about
from magid.systemd.unit_names import unit_name

FAILURES = 3  # of requests, with none that went well between them: then magid asks by itself
FIRST_S, MAX_S = 1.0, 30.0
UNWELL = 2  # failed checks of /health in a row

# What a turn costs beside prompt tokens that must be read again, where nothing is learned yet.
DEFAULT_PREFILL_RATE = 500.0  # tokens per second
DEFAULT_SERVICE_S = 5.0  # seconds of one request


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


class Breaker(Struct):
    """Of one server process. Closed: it gets requests; open: it gets none."""

    failures: int = 0  # of requests, since the last one that went well
    open_until: float | None = None  # not closed before
    trips: int = 0
    reason: str = ""
    needs_work: bool = False  # open because the server failed a probe

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


log = logging.getLogger(__name__)


_LEARN = 0.2  # the weight of the newest value in a running mean


class InFlight(Protocol):
    """A request that a server works on."""

    last_byte: float  # when it came, by the monotonic clock

    @property
    def is_held_up(self) -> bool: ...

    def give_up_on_server(self, why: str) -> None: ...


OnLost = Callable[[Backend, Callable[[str], None]], object]


class UpstreamServer:
    """Of one process. Lives as long as it is ready, or works on something."""

    def __init__(self, backend: Backend, on_lost: OnLost) -> None:
        """`on_lost` finds out how a server has ended."""
        self._on_lost = on_lost
        self.backend = backend
        self.pool = ConnectionPool(backend)
        self.breaker = Breaker()
        self.active: set[InFlight] = set()
        self.turns = 0.0  # taken, each the smaller the more weight the server has
        self.probe_failures = 0  # of /health, in a row
        self.probed_at = time.monotonic()  # it has just become ready
        self.last_used = time.monotonic()
        self.learns_rates = False  # where a choice goes by them
        self.is_doubted = False  # it lost a request: others are preferred until it answers /health
        self.is_suspect = False  # it failed several requests: magid asks it by itself
        self.is_being_examined = False  # so now
        self.examined_at = 0.0  # when that ended last
        self.examinations = 0  # that it passed, with little time between them
        self.prefill_rate = DEFAULT_PREFILL_RATE
        self.service_s = DEFAULT_SERVICE_S
        self._heads: dict[str, bytes] = {}
        self.shown = (
            f"X-Magi-Model: {backend.model_id}\r\n"
            f"X-Magi-Server: {unit_name(backend.port).removesuffix('.service')}\r\n"
        ).encode()

    @property
    def outstanding(self) -> int:
        return len(self.active)

    @property
    def has_room(self) -> bool:
        return len(self.active) < self.backend.facts.slots

    @property
    def why_not(self) -> str:
        """Why it gets no requests at present; empty: it does."""
        if self.probe_failures >= UNWELL:
            return "it does not answer /health"
        return self.breaker.reason

    def leave_out(self, why: str, *, needs_work: bool = False) -> None:
        """Give it no requests. Only for what magid found out without a client's request."""
        if self.breaker.opens(time.monotonic(), why, needs_work=needs_work):
            log.warning(
                "the server on port %d gets no requests: %s", self.backend.port, why,
                extra=about(
                    Event.SERVER_LEFT_OUT, model=self.backend.model_id, port=self.backend.port
                ),
            )  # fmt: skip

    def tell_end(self, then: Callable[[str], None]) -> None:
        """Calls `then` with why the server was stopped; with "" if it ended by itself.

        At once, or in a moment.
        """
        self._on_lost(self.backend, then)

    def lost_request(self) -> None:
        """Notes a connection that closed during a request, or a malformed answer."""
        self.is_doubted = True
        self.is_suspect = self.breaker.request_failed() or self.is_suspect

    def failed_request(self, status: int, body: bytes) -> None:
        """Notes an answer with this status, which is 5xx."""
        if not blames_request(status, body):
            self.is_suspect = self.breaker.request_failed() or self.is_suspect

    def message_for(self, request: ParsedRequest) -> tuple[bytes, Sequence[Body | Buffer]]:
        """The whole request as it goes to llama-server: with the server's key, not the client's.

        Of a large one the body comes apart, so that nothing is copied.
        """
        endpoint = request.endpoint
        head = self._heads.get(endpoint.upstream)
        if head is None:
            head = self._heads[endpoint.upstream] = self._head(endpoint)
        if endpoint.asks_by_query:
            return b"%b%b\r\n" % (head, request.passed), ()
        if request.outline is None:
            return b"%b%bContent-Length: %d\r\n\r\n%b" % (
                head, request.passed, len(request.body), bytes(request.body),
            ), ()  # fmt: skip
        head = b"%b%bContent-Length: %d\r\n\r\n" % (head, request.passed, request.size)
        return head, request.pieces or (request.body,)

    def _head(self, endpoint: Endpoint) -> bytes:
        key = self.backend.key
        lines = [f"{endpoint.method} {endpoint.upstream} HTTP/1.1", f"Host: {self.backend.address}"]
        lines += [authorization(key)] if key else []
        lines += [] if endpoint.asks_by_query else ["Content-Type: application/json"]
        lines.append("")
        return "\r\n".join(lines).encode()

    def learn(self, record: Record) -> None:
        """From a request that went well: how fast prompts are read, how long requests take."""
        usage = record.usage if self.learns_rates else None
        if usage and usage.prompt_ms and usage.prompt_tokens and usage.prompt_ms > 1:
            read = usage.prompt_tokens - (usage.cached_tokens or 0)
            if read >= 16:  # a few tokens say more about overheads
                self.prefill_rate += _LEARN * (1000 * read / usage.prompt_ms - self.prefill_rate)
        if record.sent_s is not None:
            took = time.monotonic() - record.began - record.sent_s
            self.service_s += _LEARN * (took - self.service_s)

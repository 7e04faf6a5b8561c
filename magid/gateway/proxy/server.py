"""One server as the gateway uses it: its connections, what it works on, how it has done so far."""

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from magid.gateway.accounting.request_log import Record
from magid.gateway.proxy import probes
from magid.gateway.proxy.balancing import DEFAULT_PREFILL_RATE, DEFAULT_SERVICE_S, Load
from magid.gateway.proxy.breaker import Breaker, blames_request
from magid.gateway.proxy.upstream import Pool
from magid.gateway.routing.endpoints import Endpoint
from magid.gateway.routing.fleet import Backend
from magid.gateway.routing.outline import Body, Buffer
from magid.gateway.routing.request import Asked
from magid.llama.connection import authorization
from magid.log.events import Event, about
from magid.servers.backend import unit_name

if TYPE_CHECKING:
    from magid.gateway.proxy.forward import Exchange

log = logging.getLogger(__name__)

_LEARN = 0.2  # the weight of the newest value in a running mean


class Server:
    """Of one process. Lives as long as it is ready, or works on something."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.pool = Pool(backend)
        self.breaker = Breaker()
        self.exchanges: set[Exchange] = set()
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
        self._prefill_rate = DEFAULT_PREFILL_RATE
        self._service_s = DEFAULT_SERVICE_S
        self._heads: dict[str, bytes] = {}
        self.shown = (
            f"X-Magi-Model: {backend.model_id}\r\n"
            f"X-Magi-Server: {unit_name(backend.port).removesuffix('.service')}\r\n"
        ).encode()

    @property
    def outstanding(self) -> int:
        return len(self.exchanges)

    @property
    def has_room(self) -> bool:
        return len(self.exchanges) < self.backend.facts.slots

    @property
    def why_not(self) -> str:
        """Why it gets no requests at present; empty: it does."""
        if self.probe_failures >= probes.UNWELL:
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

    def lost_request(self) -> None:
        """It ended the connection of a request, or its answer makes no sense."""
        self.is_doubted = True
        self.is_suspect = self.breaker.request_failed() or self.is_suspect

    def failed_request(self, status: int, body: bytes) -> None:
        """It answered a request with this status, which is 5xx."""
        if not blames_request(status, body):
            self.is_suspect = self.breaker.request_failed() or self.is_suspect

    def load(self, floor: float, missing_tokens: float) -> Load:
        """For a choice; `floor` is where turns count from."""
        return Load(
            self.backend.process,
            self.backend.facts.slots,
            len(self.exchanges),
            max(self.turns, floor),
            self.backend.weight,
            missing_tokens,
            self._prefill_rate,
            self._service_s,
        )

    def request(self, asked: Asked) -> tuple[bytes, Sequence[Body | Buffer]]:
        """The whole request as it goes to llama-server: with the server's key, not the client's.

        Of a large one the body comes apart, so that nothing is copied.
        """
        endpoint = asked.endpoint
        head = self._heads.get(endpoint.path)
        if head is None:
            head = self._heads[endpoint.path] = self._head(endpoint)
        if endpoint.asks_by_query:
            return b"%b%b\r\n" % (head, asked.passed), ()
        if asked.outline is None:
            return b"%b%bContent-Length: %d\r\n\r\n%b" % (
                head, asked.passed, len(asked.body), bytes(asked.body),
            ), ()  # fmt: skip
        head = b"%b%bContent-Length: %d\r\n\r\n" % (head, asked.passed, asked.size)
        return head, asked.pieces or (asked.body,)

    def _head(self, endpoint: Endpoint) -> bytes:
        key = self.backend.key
        lines = [f"{endpoint.method} {endpoint.path} HTTP/1.1", f"Host: {self.backend.address}"]
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
                self._prefill_rate += _LEARN * (1000 * read / usage.prompt_ms - self._prefill_rate)
        if record.sent_s is not None:
            took = time.monotonic() - record.began - record.sent_s
            self._service_s += _LEARN * (took - self._service_s)

"""The record of each request: who answered it, why, how fast, how it ended. Never the text.

In memory and bounded. Times are seconds; `at` since the epoch, the others since the request came.
Requests that fail, are ended or wait long are logged too, at a limited rate, so that no client can
fill the log.
"""

import heapq
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterable
from enum import StrEnum
from itertools import chain, islice

from msgspec import Struct

from magid.errors import MagidError
from magid.gateway.routing.request import ParsedRequest
from magid.log import rate_limit
from magid.log.events import Event, about

KEPT = 1000  # of the ended ones
KEPT_REFUSED = 200  # of those that were not routed: kept by themselves, they crowd no other out
_MOST_CHARS = 2000  # of why one was refused, which may repeat what its client has sent


class Outcome(StrEnum):
    """How a request ended."""

    RUNNING = "running"
    OK = "ok"
    REFUSED = "refused"  # by magid, or status 4xx of the server
    FAILED = "failed"  # the server's fault
    CANCELLED = "cancelled"  # the client left
    KILLED = "killed"  # by DELETE /api/requests/{id}
    STOPPED = "stopped"  # its server was, by magid or by a person


class Usage(Struct):
    """Tokens, as the server counted them; None where it did not say."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    answer_tokens: int | None = None
    prompt_ms: float | None = None  # of reading what was not cached
    answer_ms: float | None = None
    draft_tokens: int | None = None  # guesses of a draft
    accepted_tokens: int | None = None  # those of them that were right


class Record(Struct):
    """One request."""

    id: str
    at: float
    path: str
    requested_model: str
    is_stream: bool
    token: str = ""  # the name of the caller's
    client_request_id: str = ""  # by which the client knows it
    variant: str = ""  # of a model: its name
    model_id: str | None = None
    port: int | None = None
    tier: str | None = None
    route: str = ""
    status: int | None = None
    outcome: Outcome = Outcome.RUNNING
    error: str = ""
    problem: str = ""  # the code of magid's own error, where that was the answer
    attempts: int = 0
    began: float = 0.0  # on the monotonic clock
    sent_s: float | None = None  # when it left the queue
    first_byte_s: float | None = None
    first_token_s: float | None = None  # of a stream
    duration_s: float | None = None
    figures: bytes = b""  # the server's, as they came
    estimate: Usage | None = None  # where an answer has begun, and its figures have not come

    @property
    def usage(self) -> Usage | None:
        return usage_in(self.figures)

    @property
    def tokens_per_second(self) -> float | None:
        """The answer's tokens per second: by the server's clock, else from its first token on."""
        usage = self.usage
        return None if usage is None else self.speed_of(usage)

    def speed_of(self, usage: Usage) -> float | None:
        """Returns the same with usage that was read already, which takes microseconds."""
        if not usage.answer_tokens:
            return None
        if usage.answer_ms:
            speed = 1000 * usage.answer_tokens / usage.answer_ms
            return speed if speed < MAX_SPEED else None
        if self.duration_s is None or self.first_token_s is None:
            return None
        took = self.duration_s - self.first_token_s
        return usage.answer_tokens / took if took > 0 else None


def of(request: ParsedRequest) -> Record:
    return Record(
        id=request.request_id,
        at=time.time(),
        path=request.endpoint.path,
        requested_model=request.model[:200],
        is_stream=request.is_stream,
        token=request.token,
        client_request_id=request.client_request_id,
        variant=request.variant,
        began=time.monotonic(),
    )


def refused(request: ParsedRequest, error: MagidError) -> Record:
    """Returns the record of a request that was not routed."""
    return _refused(of(request), error)


def unread(
    path: str, request_id: str, client_request_id: str, token: str, error: MagidError
) -> Record:
    """Returns the record of a request that was refused before its body was read."""
    record = Record(
        id=request_id, at=time.time(), path=path, requested_model="", is_stream=False, token=token,
        client_request_id=client_request_id, began=time.monotonic(),
    )  # fmt: skip
    return _refused(record, error)


def _refused(record: Record, error: MagidError) -> Record:
    record.outcome, record.problem = Outcome.REFUSED, error.code
    record.error = error.message[:_MOST_CHARS]
    record.duration_s = time.monotonic() - record.began
    return record


def fail(record: Record, error: MagidError) -> None:
    """Notes that the client was sent this error at the very end: the server had done its part."""
    record.outcome, record.problem, record.error = Outcome.FAILED, error.code, error.message


class Records:
    """The running requests, the last KEPT ended ones, and the last KEPT_REFUSED not routed ones."""

    def __init__(self) -> None:
        self.running: dict[str, Record] = {}
        self.ended = 0  # all ended requests, including those no longer kept
        self.refused = 0  # all that were not routed, likewise
        self._ended: deque[Record] = deque(maxlen=KEPT)
        self._refused: deque[Record] = deque(maxlen=KEPT_REFUSED)

    def begin(self, record: Record) -> None:
        """Adds a running record. Ids are magid's own, so none comes twice."""
        self.running[record.id] = record

    def end(self, record: Record, outcome: Outcome, error: str = "") -> None:
        record.outcome, record.error = outcome, error
        record.duration_s = time.monotonic() - record.began
        self.running.pop(record.id, None)
        self._ended.append(record)
        self.ended += 1

    def refuse(self, record: Record) -> None:
        """Keeps the record of a request that was not routed, and so never ran."""
        self._refused.append(record)
        self.refused += 1

    def newest(self, limit: int) -> Iterable[Record]:
        """Returns the running records, then the others, newest first in each group."""
        over = heapq.merge(reversed(self._ended), reversed(self._refused), key=_since_its_end)
        return islice(chain(reversed(self.running.values()), over), limit)


def _since_its_end(record: Record) -> float:
    return -record.began - (record.duration_s or 0.0)


_COUNT, _MS = rb'":(\d{1,9})', rb'":(\d{1,9}(?:\.\d{1,20})?)'
_FIGURE = re.compile(
    rb'"(prompt_n|predicted_n|cache_n|draft_n|draft_n_accepted|prompt_ms|predicted_ms|prompt_tokens|completion_tokens|'
    rb"cached_tokens|input_tokens|output_tokens|cache_read_input_tokens)"
    rb'":(\d{1,9}(?:\.\d{1,20})?(?:e-\d{2,3})?)(?![\d.eE])'  # values out of bounds are ignored
)
# As llama-server has them since it counts what is cached: all there is to know in one piece. A
# figure that is written in another way is left to _FIGURE.
_TIMINGS = re.compile(
    rb'"timings":{"cache_n%b,"prompt_n%b,"prompt_ms%b,"prompt_per_token_ms":[^,"]{1,30},'
    rb'"prompt_per_second":[^,"]{1,30},"predicted_n%b,"predicted_ms%b,'
    rb'(?:"predicted_per_token_ms":[^,"]{1,30},"predicted_per_second":[^,"]{1,30},'
    rb'"draft_n%b,"draft_n_accepted%b(?!\d))?' % (_COUNT, _COUNT, _MS, _COUNT, _MS, _COUNT, _COUNT)
)
START_BYTES, TAIL_BYTES = 512, 4096  # of an answer, which hold its figures
TAIL_SEGMENTS = 8  # a stream ends with figures, usage, [DONE] and the end, each on its own


def figures_in(start: bytes, tail: bytes) -> bytes:
    """The part with figures of an answer's first and last bytes: no text of the answer.

    Anthropic counts the prompt at the start. In text that a model writes, quotes are escaped: these
    keys are the server's.
    """
    at, timings = tail.rfind(b'"usage":'), tail.rfind(b'"timings":')
    if at < 0 or 0 <= timings < at:
        at = timings
    found = tail[at:] if at >= 0 else b""
    if b'"input_tokens"' not in start or b'"input_tokens"' in found:
        return found
    at = start.find(b'"usage":')
    return (start[at : at + _PART_BYTES] if at >= 0 else b"") + found


_PART_BYTES = 200  # Anthropic's are 80
MAX_SPEED = 1e6  # tokens a second; more is no speed


def usage_in(figures: bytes) -> Usage | None:
    """Pure. The last figure of a name counts. Every request's are read: 1.3 us, or 3 one by one."""
    match = _TIMINGS.match(figures, figures.rfind(b'"timings":'))
    if match is None:
        return _one_by_one(figures)
    cached_n, prompt_n, prompt_ms, answer_n, answer_ms, draft_n, accepted_n = match.groups()
    cached = int(cached_n)
    return Usage(
        cached + int(prompt_n), cached, int(answer_n), float(prompt_ms), float(answer_ms),
        _whole(draft_n), _whole(accepted_n),
    )  # fmt: skip


def _one_by_one(figures: bytes) -> Usage | None:
    found = dict(_FIGURE.findall(figures))
    if not found:
        return None
    get = found.get
    prompt_ms, answer_ms = get(b"prompt_ms"), get(b"predicted_ms")
    return Usage(
        _prompt_tokens(get),
        _whole(get(b"cache_n") or get(b"cached_tokens") or get(b"cache_read_input_tokens")),
        _whole(get(b"predicted_n") or get(b"completion_tokens") or get(b"output_tokens")),
        None if prompt_ms is None else float(prompt_ms),
        None if answer_ms is None else float(answer_ms),
        _whole(get(b"draft_n")),
        _whole(get(b"draft_n_accepted")),
    )


def _prompt_tokens(get: Callable[[bytes], bytes | None]) -> int | None:
    """All of the prompt, cached or not."""
    read = get(b"prompt_n")
    if read is not None:
        return int(float(read) + float(get(b"cache_n") or 0))
    cached = get(b"cache_read_input_tokens")
    if cached is not None:  # Anthropic counts the cached ones apart
        return int(float(get(b"input_tokens") or 0) + float(cached))
    return _whole(get(b"prompt_tokens") or get(b"input_tokens"))


def _whole(text: bytes | None) -> int | None:
    return None if text is None else int(float(text))


log = logging.getLogger(__name__)


_RATE_LIMITS = {
    Event.REQUEST_REFUSED: rate_limit.REFUSED,
    Event.REQUEST_FAILED: rate_limit.FAILED,
    Event.REQUEST_STOPPED: rate_limit.FAILED,
}
SLOW_S = 30.0  # to the first byte, from where the request came


def log_end(record: Record) -> None:
    """Logs the end of a request. Called once for each."""
    entry = _log_entry(record)
    if entry is None:
        return
    event, level, words = entry
    share = _RATE_LIMITS.get(event)
    more = share.take(time.monotonic()) if share else ""
    if more is None:
        return
    log.log(
        level, "request %s for %r %s%s", record.id, record.requested_model, words, more,
        extra=about(event, model=record.model_id, port=record.port, request=record.id,
            client_request=record.client_request_id,
        ),
    )  # fmt: skip


def _log_entry(record: Record) -> tuple[Event, int, str] | None:
    if record.outcome is Outcome.FAILED:
        why = record.error or f"its server answered with status {record.status}"
        return Event.REQUEST_FAILED, logging.WARNING, f"failed: {why}"
    if record.outcome is Outcome.REFUSED and record.status is None:
        return Event.REQUEST_REFUSED, logging.WARNING, f"was refused: {record.error}"
    if record.outcome is Outcome.KILLED:
        return Event.REQUEST_KILLED, logging.INFO, "was ended by DELETE /api/requests"
    if record.outcome is Outcome.STOPPED:
        return Event.REQUEST_STOPPED, logging.INFO, f"was ended: {record.error}"
    if (record.first_byte_s or 0.0) >= SLOW_S:
        text = f"got its first byte after {record.first_byte_s:.1f} s"
        if record.sent_s is not None:
            text += f", {record.sent_s:.1f} s of them in the queue"
        return Event.REQUEST_SLOW, logging.WARNING, text
    return None

"""The texts of requests and answers, kept only while an administrator has capture switched on.

In memory, and bounded: in time by MAX_S, in size by MAX_BYTES and MAX_KEPT, where the oldest make
room. When a capture ends, by its time or by hand, all its texts are dropped at once, also those of
requests that are under way: so magid has texts only while each status says so. Lives on the event
loop.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from magid.gateway.accounting.request_log import Record
from magid.log.events import Event, about

Buffer = bytes | bytearray | memoryview
log = logging.getLogger(__name__)

MAX_S = 3600  # of one capture, which may be prolonged
MAX_BYTES = 16 * 2**20  # of all texts together
MAX_KEPT = 1000  # exchanges: as many as ended requests are kept
TEXT_BYTES = 256 * 2**10  # of one text; of a longer request both ends, of an answer the beginning
_READERS = 100  # whose reading is logged once; that of others each time


class Exchange:
    """What one request said, and what it was answered. Texts are bytes as they were sent.

    `request` is what its server got, and `answer` what it sent, without chunks. `*_bytes` are the
    sizes of the whole texts.
    """

    __slots__ = ("answer", "answer_bytes", "content_type", "record", "request", "request_bytes")

    def __init__(self, record: Record, pieces: Sequence[Buffer]) -> None:
        self.record = record
        self.request = _ends(pieces)
        self.request_bytes = sum(map(len, pieces))
        self.answer = bytearray()
        self.answer_bytes = 0
        self.content_type = b""

    @property
    def kept_bytes(self) -> int:
        return len(self.request) + len(self.answer)

    def drop(self) -> None:
        """Drops the texts: a request that is under way holds its exchange until its end."""
        self.request, self.answer = b"", bytearray()


def _ends(pieces: Sequence[Buffer]) -> bytes:
    """Returns the first and the last bytes of a long text, which has the newest message last."""
    if sum(map(len, pieces)) <= TEXT_BYTES:
        return b"".join(pieces)
    left = TEXT_BYTES // 2
    first = bytearray()
    for piece in pieces:
        first += piece[: left - len(first)]
    last: list[Buffer] = []
    for piece in reversed(pieces):
        if not left:
            break
        last.insert(0, piece[-left:])
        left -= len(last[0])
    return b"".join((first, *last))


class TextCapture:
    """The one owner of captured texts. `is_on` is all that requests look at while it is off."""

    __slots__ = ("_kept", "_readers", "_timer", "bytes", "dropped", "is_on", "until")

    def __init__(self) -> None:
        self.is_on = False
        self.until: datetime | None = None
        self.bytes = 0  # of the texts that are kept
        self.dropped = 0  # exchanges that have made room for newer ones
        self._kept: dict[str, Exchange] = {}  # by the id of the request, oldest first
        self._readers: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float, by: str) -> None:
        """Captures from now on, for so long; what is captured already stays."""
        self._stop_timer()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self.end, "its time is over")
        self.until = datetime.fromtimestamp(time.time() + seconds, UTC)
        self.is_on = True
        log.warning(
            "%s has switched the capture of texts on, for %.0f s: what is asked and answered can "
            "be read by administrators", by, seconds, extra=about(Event.CAPTURE_STARTED, caller=by),
        )  # fmt: skip

    def end(self, why: str, by: str | None = None) -> None:
        """Ends the capture and drops all texts. Idempotent."""
        self._stop_timer()
        if not self.is_on:
            return
        self.is_on, self.until = False, None
        count = len(self._kept)
        for exchange in self._kept.values():
            exchange.drop()
        self._kept.clear()
        self._readers.clear()
        self.bytes = self.dropped = 0
        log.warning(
            "the capture of texts has ended, %s; requests whose texts are dropped: %d", why, count,
            extra=about(Event.CAPTURE_ENDED, caller=by),
        )  # fmt: skip

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- what is captured ------------------------------------------------------------------

    def begin(self, record: Record, pieces: Sequence[Buffer]) -> Exchange:
        """Keeps the text of a request. Only while the capture is on."""
        exchange = self._kept[record.id] = Exchange(record, pieces)
        self.bytes += exchange.kept_bytes
        self._make_room()
        return exchange

    def answer(self, exchange: Exchange, data: bytes) -> None:
        """Keeps a part of an answer, unless its exchange was dropped or has enough of it."""
        exchange.answer_bytes += len(data)
        if self._kept.get(exchange.record.id) is not exchange:
            return
        part = data[: max(0, TEXT_BYTES - len(exchange.answer))]
        exchange.answer += part
        self.bytes += len(part)
        self._make_room()

    def _make_room(self) -> None:
        while self.bytes > MAX_BYTES or len(self._kept) > MAX_KEPT:
            oldest = self._kept.pop(next(iter(self._kept)))
            self.bytes -= oldest.kept_bytes
            oldest.drop()
            self.dropped += 1

    # -- reading ---------------------------------------------------------------------------

    def newest(self) -> list[Exchange]:
        """Returns the exchanges, newest first."""
        return list(reversed(self._kept.values()))

    def find(self, request_id: str) -> Exchange | None:
        return self._kept.get(request_id)

    def log_reader(self, by: str) -> None:
        """Logs who reads texts: once in each capture, however many are read."""
        if by in self._readers:
            return
        if len(self._readers) < _READERS:
            self._readers.add(by)
        log.warning("%s reads captured texts", by, extra=about(Event.CAPTURE_READ, caller=by))

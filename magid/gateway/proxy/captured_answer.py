"""Passes an answer on to its client, and keeps a copy while texts are captured."""

from magid.errors import MagidError
from magid.gateway.accounting.text_capture import Exchange, TextCapture
from magid.gateway.proxy.forward import ResponseSink
from magid.http.framing import ChunkReader, ReplyHead

# Tells the client, too, that its texts were kept.
FIELD = b"X-Magi-Captured: yes\r\n"


class CapturedAnswer:
    """Implements `ResponseSink` between the relay and the client."""

    __slots__ = ("_capture", "_client", "_exchange", "_reader")

    def __init__(self, client: ResponseSink, capture: TextCapture, exchange: Exchange) -> None:
        self._client, self._capture, self._exchange = client, capture, exchange
        self._reader: ChunkReader | None = None

    def begins(self, head: ReplyHead, fields: bytes, data: bytes) -> None:
        self._exchange.content_type = head.content_type
        self._reader = ChunkReader(keep=True) if head.is_chunked else None
        self._keep(data)
        self._client.begins(head, fields + FIELD, data)

    def goes_on(self, data: bytes) -> None:
        self._keep(data)
        self._client.goes_on(data)

    def _keep(self, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            self._capture.answer(self._exchange, data)
            return
        reader.feed(data)  # the relay has read it once without a fault
        self._capture.answer(self._exchange, b"".join(reader.payload or ()))
        reader.payload = []

    def ends(self) -> None:
        self._client.ends()

    def fails(self, error: MagidError, fields: bytes = b"") -> None:
        self._client.fails(error, fields + FIELD)

    def breaks_off(self, error: MagidError, *, is_inside_chunk: bool) -> None:
        self._client.breaks_off(error, is_inside_chunk=is_inside_chunk)

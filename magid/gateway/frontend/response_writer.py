"""Writes the responses of one client connection: those of servers, of magid, and errors."""

import asyncio
from collections import Counter
from collections.abc import Callable

from magid.errors import MagidError
from magid.gateway.frontend import responses
from magid.gateway.frontend.request_reader import RequestHead
from magid.gateway.routing.endpoints import NAME_FILES, Style, style_of
from magid.http.framing import LAST_CHUNK, ChunkReader, ReplyHead, chunk
from magid.http.status import status_of

_STREAMS = (b"text/event-stream", b"application/x-ndjson")


class ResponseWriter:
    """Implements `ResponseSink`. One for each connection, for one response after the other.

    Calls `on_end` when a response is complete; `closes` says whether the connection ends with it.
    """

    __slots__ = (
        "_chunks", "_collected", "_errors", "_fields", "_head", "_on_end", "_path", "_reply",
        "_transport", "closes", "limit_fields", "request_id",
    )  # fmt: skip

    def __init__(
        self, transport: asyncio.Transport, errors: Counter[str], on_end: Callable[[], None]
    ) -> None:
        self._transport, self._errors, self._on_end = transport, errors, on_end
        self.closes = False
        self._fields = b""
        self.reset()

    def reset(self) -> None:
        """Forgets the request and its response. Idempotent."""
        self._head: RequestHead | None = None
        self._path = ""
        self.request_id = ""
        self.limit_fields = b""  # what the response says of the caller's limits
        self._reply: ReplyHead | None = None
        self._chunks: ChunkReader | None = None  # of a response that is passed on without them
        self._collected: bytearray | None = None  # of a response that is rewritten

    def start(self, head: RequestHead, request_id: str) -> None:
        """Sets the request that is answered next."""
        self._head, self._path, self.request_id = head, head.path, request_id
        if not head.keeps_alive:
            self.closes = True

    # -- magid's own responses -----------------------------------------------------------------

    def respond(self, status: int, fields: bytes, body: bytes) -> None:
        """Sends a complete response."""
        self._write(status, fields, body)
        self._end()

    def refuse(self, error: MagidError, path: str | None = None) -> None:
        """Sends an error and no more, to a request that is not read to its end.

        `path` is that of a head that cannot be read: errors have the shape that its SDK expects.
        """
        if path is not None:
            self._path = path
        self.closes = True
        self._write_error(error, b"")

    # -- ResponseSink --------------------------------------------------------------------------

    def begins(self, head: ReplyHead, fields: bytes, data: bytes) -> None:
        self._reply, self._fields = head, fields
        if self._path in NAME_FILES or (head.status >= 400 and self._is_misshapen(head.status)):
            self._chunks = ChunkReader(keep=True) if head.is_chunked else None
            self._collected = bytearray(self._without_chunks(data))
            return
        if head.is_chunked:
            framing = b"" if self._is_1_0 else b"Transfer-Encoding: chunked\r\n"
        elif head.length is None:
            framing = b""
        else:
            framing = b"Content-Length: %d\r\n" % head.length
        if not framing:
            self.closes = True
            if head.is_chunked:
                self._chunks = ChunkReader(keep=True)
        content = b"Content-Type: %b\r\n%b%b" % (head.content_type, framing, fields)
        self._send(self._head_bytes(head.status, content) + self._without_chunks(data))

    def goes_on(self, data: bytes) -> None:
        if self._collected is not None:
            self._collected += self._without_chunks(data)  # the proxy bounds what is collected
        else:
            self._send(self._without_chunks(data) if self._chunks else data)

    def ends(self) -> None:
        reply = self._reply
        if self._collected is not None and reply is not None:
            came = bytes(self._collected)
            if self._path in NAME_FILES:
                body = responses.without_path(came)
            else:
                body = responses.reshaped(style_of(self._path), reply.status, came)
            kind = reply.content_type if body is came else b"application/json"
            self._write(reply.status, b"Content-Type: %b\r\n%b" % (kind, self._fields), body)
        self._end()

    def fails(self, error: MagidError, fields: bytes = b"") -> None:
        self._write_error(error, fields)
        self._end()

    def breaks_off(self, error: MagidError, *, is_inside_chunk: bool) -> None:
        """Ends a stream of events with the error as its last event; cuts anything else off."""
        reply = self._reply
        if reply is None or self._collected is not None:
            self.fails(error, self._fields)
            return
        self.closes = True
        if reply.content_type.startswith(_STREAMS) and not is_inside_chunk:
            event = responses.error_event(style_of(self._path), status_of(error), error)
            if reply.is_chunked and not self._is_1_0:
                event = chunk(event) + LAST_CHUNK
            self._send(event)
        else:
            self._transport.abort()
        self._end()

    # -- inside --------------------------------------------------------------------------------

    @property
    def _is_1_0(self) -> bool:
        return self._head is not None and self._head.is_1_0

    def _is_misshapen(self, status: int) -> bool:
        """Whether an error with this status may need another shape or wording for its client."""
        return status == 400 or (status > 400 and style_of(self._path) is not Style.OPENAI)

    def _without_chunks(self, data: bytes) -> bytes:
        """The payload, for HTTP/1.0, which has no chunks, and where magid itself reads it."""
        chunks = self._chunks
        if chunks is None:
            return data
        chunks.feed(data)  # the proxy has read it once without a fault
        payload = b"".join(chunks.payload or ())
        chunks.payload = []
        return payload

    def _write_error(self, error: MagidError, fields: bytes) -> None:
        status = status_of(error)
        self._errors[error.code] += 1
        body = responses.error_body(style_of(self._path), status, error)
        self._write(status, responses.error_fields(status, error, self._head) + fields, body)

    def _write(self, status: int, fields: bytes, body: bytes) -> None:
        if status != 204:
            fields += b"Content-Length: %d\r\n" % len(body)
        is_head = self._head is not None and self._head.method == "HEAD"
        self._send(self._head_bytes(status, fields) + (b"" if is_head else body))

    def _head_bytes(self, status: int, fields: bytes) -> bytes:
        fields += self.limit_fields
        return responses.head_bytes(status, fields, self._head, self.request_id, closes=self.closes)

    def _send(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _end(self) -> None:
        self.reset()
        self._on_end()

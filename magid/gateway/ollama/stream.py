"""Translates an answer on its way to a client of Ollama's API, part by part.

Each implements `ResponseSink` between the relay and the client's connection. Nothing is kept of a
stream but an event that is not whole, and calls of tools, which Ollama's clients get whole.
"""

import re
import time
from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from magid.errors import InvalidInput, MagidError, ServerLost
from magid.gateway.ollama import requests
from magid.gateway.ollama.answers import AnswerParts, Line, Shape
from magid.gateway.proxy.forward import ResponseSink
from magid.gateway.routing.request import ParsedRequest
from magid.http.framing import LAST_CHUNK, ChunkReader, ProtocolError, ReplyHead, chunk
from magid.http.json_text import to_json
from magid.http.limits import MAX_COLLECTED_BYTES, parsed

_LINES, _JSON = b"application/x-ndjson", b"application/json"


def sink_for(request: ParsedRequest, client: ResponseSink) -> ResponseSink:
    """What the relay has to write to, so that the client gets what it expects."""
    shape = Shape(request.endpoint.path, request.model)
    match request.endpoint.target:
        case requests.EMBEDDINGS:
            return VectorAnswer(shape, client)
        case requests.LOAD:
            return WholeAnswer(shape, client, is_load=True)
        case _ if request.is_stream:
            return StreamedAnswer(shape, client)
        case _:
            return WholeAnswer(shape, client)


def loaded(shape: Shape, reason: str) -> bytes:
    """The answer to a request without a text: the model was loaded, or unloaded."""
    return to_json({**shape.line(""), "done": True, "done_reason": reason}) + b"\n"


class _Translation:
    """Common base: errors pass unchanged, as the connection gives them their shape."""

    def __init__(self, shape: Shape, client: ResponseSink) -> None:
        self._shape, self._client = shape, client
        self._began_ns = time.monotonic_ns()
        self._is_passed = False  # the answer goes on as it is
        self._fields = b""
        self._reader: ChunkReader | None = None

    def _begin(self, head: ReplyHead, fields: bytes, data: bytes) -> bool:
        """Whether the answer is to be translated."""
        if head.status != 200:
            self._is_passed = True
            self._client.begins(head, fields, data)
            return False
        self._fields = fields
        self._reader = ChunkReader(keep=True) if head.is_chunked else None
        return True

    def _payload(self, data: bytes) -> bytes:
        reader = self._reader
        if reader is None:
            return data
        reader.feed(data)  # the relay has read it once without a fault
        payload = b"".join(reader.payload or ())
        reader.payload = []
        return payload

    @property
    def _took_ns(self) -> int:
        return time.monotonic_ns() - self._began_ns

    def fails(self, error: MagidError, fields: bytes = b"") -> None:
        self._client.fails(error, fields)


class StreamedAnswer(_Translation):
    """Server-sent events, as lines of JSON."""

    def __init__(self, shape: Shape, client: ResponseSink) -> None:
        super().__init__(shape, client)
        self._parts = AnswerParts(shape)
        self._rest = bytearray()
        self._has_ended = False

    def begins(self, head: ReplyHead, fields: bytes, data: bytes) -> None:
        if head.status == 200 and not head.is_chunked:
            raise ProtocolError("its stream has no chunks")
        if self._begin(head, fields, data):
            lines = replace(head, content_type=_LINES)
            self._client.begins(lines, fields, self._translated(data))

    def goes_on(self, data: bytes) -> None:
        translated = data if self._is_passed else self._translated(data)
        if translated:
            self._client.goes_on(translated)

    def _translated(self, data: bytes) -> bytes:
        lines = b"".join(map(self._lines, self._events(self._payload(data))))
        assert self._reader is not None
        if self._reader.done:
            lines += self._lines(bytes(self._rest)) + self._last()
        return chunk(lines) + LAST_CHUNK if self._reader.done else chunk(lines)

    def _events(self, payload: bytes) -> list[bytes]:
        """Returns the complete events. Raises ProtocolError for one that does not end."""
        rest = self._rest
        seen = max(len(rest) - 1, 0)  # up to where no event ends
        rest += payload
        end = rest.rfind(b"\n\n", seen)
        if end < 0:
            if len(rest) > MAX_COLLECTED_BYTES:
                raise ProtocolError("an event has no end")
            return []
        whole = bytes(rest[:end])
        del rest[: end + 2]
        return whole.split(b"\n\n")

    def _lines(self, event: bytes) -> bytes:
        given = [line for line in event.split(b"\n") if line.startswith((b"data:", b"error:"))]
        data = b"".join(line.partition(b":")[2].strip() for line in given)
        if not data:
            return b""
        if data == b"[DONE]":
            return self._last()
        try:
            part: Any = parsed(data)
        except ValueError as error:
            raise ProtocolError(f"an event is not JSON: {error}") from None
        if given[0].startswith(b"error:") and not (isinstance(part, dict) and "error" in part):
            part = {"error": part}  # as older servers have it
        return _joined(self._parts.lines(part))

    def _last(self) -> bytes:
        """The lines at the end. Idempotent."""
        if self._has_ended:
            return b""
        self._has_ended = True
        return _joined(self._parts.end(self._took_ns))

    def ends(self) -> None:
        self._client.ends()

    def breaks_off(self, error: MagidError, *, is_inside_chunk: bool) -> None:
        # Lines were put into chunks of ours: what was sent is whole.
        self._client.breaks_off(error, is_inside_chunk=is_inside_chunk and self._is_passed)


def _joined(lines: Iterable[Line]) -> bytes:
    return b"".join(to_json(line) + b"\n" for line in lines)


class WholeAnswer(_Translation):
    """An answer in one piece: collected, then sent."""

    def __init__(self, shape: Shape, client: ResponseSink, *, is_load: bool = False) -> None:
        super().__init__(shape, client)
        self._is_load = is_load
        self._head: ReplyHead | None = None
        self._body = bytearray()

    def begins(self, head: ReplyHead, fields: bytes, data: bytes) -> None:
        if self._begin(head, fields, data):
            self._head = head
            self._collect(data)

    def goes_on(self, data: bytes) -> None:
        if self._is_passed:
            self._client.goes_on(data)
        else:
            self._collect(data)

    def _collect(self, data: bytes) -> None:
        """Raises InvalidInput for more: its length goes by what the client has asked."""
        self._body += self._payload(data)
        if len(self._body) > MAX_COLLECTED_BYTES:
            raise InvalidInput(
                f"cannot answer in one piece: that is more than {MAX_COLLECTED_BYTES} bytes; "
                "ask for a stream, or for fewer logprobs",
                field="stream",
            )

    def ends(self) -> None:
        """Raises ServerLost for an answer that is not JSON; nothing was sent then."""
        if self._head is not None:
            try:
                body = loaded(self._shape, "load") if self._is_load else self._answer()
            except ValueError:
                why = "cannot answer: what the server has sent is not JSON; try again"
                raise ServerLost(why) from None
            head = replace(self._head, length=len(body), is_chunked=False, content_type=_JSON)
            self._client.begins(head, self._fields, body)
        self._client.ends()

    def _answer(self) -> bytes:
        answer: object = parsed(bytes(self._body))
        return to_json(AnswerParts(self._shape).whole(answer, self._took_ns))

    def breaks_off(self, error: MagidError, *, is_inside_chunk: bool) -> None:
        if self._is_passed:
            self._client.breaks_off(error, is_inside_chunk=is_inside_chunk)
        else:
            self._client.fails(error, self._fields)


_VECTOR = re.compile(rb'"embedding":\s*(\[[^\[\]"]*\])')
_USED = re.compile(rb'"prompt_tokens":\s*([0-9]{1,15})')


class VectorAnswer(_Translation):
    """Passes on each vector once it is complete, unparsed: many vectors are megabytes."""

    def __init__(self, shape: Shape, client: ResponseSink) -> None:
        super().__init__(shape, client)
        self._rest = b""
        self._used = 0
        self._vectors = 0

    @property
    def _is_one(self) -> bool:
        """The older call has one vector."""
        return self._shape.path == "/api/embeddings"

    def begins(self, head: ReplyHead, fields: bytes, data: bytes) -> None:
        if self._begin(head, fields, data):
            opening = b'{"embedding":' if self._is_one else _opening(self._shape.name)
            head = replace(head, length=None, is_chunked=True, content_type=_JSON)
            self._client.begins(head, fields, chunk(opening + self._taken(data)))

    def goes_on(self, data: bytes) -> None:
        translated = data if self._is_passed else chunk(self._taken(data))
        if translated:
            self._client.goes_on(translated)

    def _taken(self, data: bytes) -> bytes:
        """Returns the vectors that are complete."""
        new = self._payload(data)
        text, at, made = self._rest + new, 0, []
        if b"]" not in new and b"}" not in new:  # nothing has ended
            self._keep(text)
            return b""
        used = _USED.search(text)
        self._used = int(used[1]) if used else self._used
        for vector in _VECTOR.finditer(text):
            at = vector.end()
            if not self._is_one or not self._vectors:
                made.append(b"," * bool(self._vectors) + vector[1])
            self._vectors += 1
        self._keep(text[at:])
        return b"".join(made)

    def _keep(self, rest: bytes) -> None:
        if len(rest) > MAX_COLLECTED_BYTES:
            raise ProtocolError("a vector has no end")
        self._rest = rest

    def ends(self) -> None:
        if not self._is_passed:
            self._client.goes_on(chunk(self._closing()) + LAST_CHUNK)
        self._client.ends()

    def _closing(self) -> bytes:
        if self._is_one:
            return b"}" if self._vectors else b"[]}"
        figures = to_json({
            "total_duration": self._took_ns, "load_duration": 0, "prompt_eval_count": self._used,
        })  # fmt: skip
        return b"]," + figures[1:]

    def breaks_off(self, error: MagidError, *, is_inside_chunk: bool) -> None:
        self._client.breaks_off(error, is_inside_chunk=is_inside_chunk and self._is_passed)


def _opening(name: str) -> bytes:
    return b'{"model":%b,"embeddings":[' % to_json(name)

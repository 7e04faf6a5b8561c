"""The body of a request for the gateway, from its segments to what it asks for. Bounded, pure."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from magid.auth.token_store import Caller
from magid.errors import InvalidInput, TooLarge
from magid.gateway.frontend.request_reader import Head
from magid.gateway.routing import nulls
from magid.gateway.routing.endpoints import Endpoint
from magid.gateway.routing.outline import WHOLE_BYTES, Outline
from magid.gateway.routing.request import Asked, parse, parse_large, parse_query
from magid.http.framing import ChunkReader
from magid.llama.client import Garbled

STEP_BYTES = 16_384  # of a chunked body, between two looks at how many chunks it has
# A JSON encoder whose every word becomes a chunk is taken up to this many of them.
MAX_SMALL_CHUNKS = 16_384
SMALL_CHUNK_BYTES = 64


def too_many_chunks() -> InvalidInput:
    return InvalidInput(
        f"cannot read the request: it has over {MAX_SMALL_CHUNKS} chunks of a few bytes each; "
        "collect what you send, or send its Content-Length"
    )


class Body:
    """Of the length that the head says, or chunked where it says none. Raises TooLarge.

    What came so far is kept once. A large body is given back as the bytearray that it grew in.
    """

    __slots__ = ("_chunks", "_limit", "_missing", "_received", "rest")

    def __init__(self, length: int | None, limit: int) -> None:
        self._limit = limit
        self._chunks = ChunkReader(keep=True) if length is None else None
        self._missing = length or 0
        self._received = bytearray()
        self.rest = b""  # what came behind it
        if self._missing > limit:
            raise self._too_large()

    def feed(self, data: bytes) -> bytes | bytearray | None:
        """The whole body, once it is there. Raises InvalidInput, TooLarge."""
        if self._chunks is not None:
            return self._feed_chunks(data, self._chunks)
        missing = self._missing
        if len(data) < missing:
            self._received += data
            self._missing -= len(data)
            return None
        if len(data) > missing:
            data, self.rest = data[:missing], data[missing:]
        if not self._received:
            return data
        self._received += data
        return self._whole()

    def _feed_chunks(self, data: bytes, chunks: ChunkReader) -> bytes | bytearray | None:
        for at in range(0, len(data), STEP_BYTES):
            used = self._feed_step(data[at : at + STEP_BYTES], chunks)
            if chunks.done:
                self.rest = data[at + used :]
                return self._whole()
        return None

    def _feed_step(self, data: bytes, chunks: ChunkReader) -> int:
        try:
            used = chunks.feed(data)
        except Garbled as error:
            raise InvalidInput(f"cannot read the request: {error}") from None
        if chunks.size > self._limit:
            raise self._too_large()
        if chunks.count > MAX_SMALL_CHUNKS + chunks.size // SMALL_CHUNK_BYTES:
            raise too_many_chunks()
        for part in chunks.payload or ():
            self._received += part
        chunks.payload = []
        return used

    def _whole(self) -> bytes | bytearray:
        received, self._received = self._received, bytearray()
        return received if len(received) > WHOLE_BYTES else bytes(received)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"cannot take this body: it is over {self._limit} bytes "
            "(gateway.max_body_bytes in magid.yaml)"
        )


@dataclass(frozen=True, slots=True)
class Asker:
    """All of a request but its body."""

    endpoint: Endpoint
    head: Head
    request_id: str
    client: str
    caller: Caller

    def asked(self, body: bytes | bytearray) -> Asked:
        """Holds the event loop for as long as it takes to parse the body. Raises InvalidInput."""
        if self.endpoint.asks_by_query:
            return self._asked(b"", *parse_query(self.head.query))
        fields, model = parse(self.endpoint, body)
        return self._asked(nulls.without(self.endpoint, bytes(body), fields), fields, model)

    def asked_in_steps(self, body: bytes | bytearray) -> Generator[None, None, Asked]:
        """The same for a large body, in steps between which others have their turn."""
        fields, model, outline = yield from parse_large(self.endpoint, body)
        yield
        asked = self._asked(body, fields, model, outline)
        if nulls.dropped(self.endpoint, fields):
            asked = asked.changed(fields)
        if self.endpoint.generates:
            yield
            _ = asked.prompt  # which takes a step of its own
        return asked

    def _asked(
        self, body: bytes | bytearray, fields: Mapping[str, Any], model: str,
        outline: Outline | None = None,
    ) -> Asked:  # fmt: skip
        head, caller = self.head, self.caller
        return Asked(
            self.endpoint, body, fields, model, self.request_id, self.client, head.passed,
            not head.is_1_0, caller.name, caller.models, head.client_request_id, outline,
        )  # fmt: skip

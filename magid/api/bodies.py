"""The body of a request for the gateway, as its segments come: strict and bounded. Pure."""

from magid.errors import InvalidInput, TooLarge
from magid.gateway.framing import ChunkReader
from magid.llama import Garbled


class Body:
    """Of the length that the head says, or chunked where it says none. Raises TooLarge."""

    __slots__ = ("_chunks", "_limit", "_missing", "_parts", "rest")

    def __init__(self, length: int | None, limit: int) -> None:
        self._limit = limit
        self._chunks = ChunkReader(keep=True) if length is None else None
        self._missing = length or 0
        self._parts: list[bytes] = []
        self.rest = b""  # what came behind it
        if self._missing > limit:
            raise self._too_large()

    def feed(self, data: bytes) -> bytes | None:
        """The whole body, once it is there. Raises InvalidInput, TooLarge."""
        if self._chunks is not None:
            return self._feed_chunks(data, self._chunks)
        missing = self._missing
        if len(data) < missing:
            self._parts.append(data)
            self._missing -= len(data)
            return None
        if len(data) > missing:
            data, self.rest = data[:missing], data[missing:]
        return b"".join((*self._parts, data)) if self._parts else data

    def _feed_chunks(self, data: bytes, chunks: ChunkReader) -> bytes | None:
        try:
            used = chunks.feed(data)
        except Garbled as error:
            raise InvalidInput(f"cannot read the request: {error}") from None
        if chunks.size > self._limit:
            raise self._too_large()
        if not chunks.done:
            return None
        self.rest = data[used:]
        return b"".join(chunks.payload or ())

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"cannot take this body: it is over {self._limit} bytes "
            "(gateway.max_body_bytes in magid.yaml)"
        )

"""HTTP/1.1 framing without I/O: chunked bodies, and the heads of llama-server's answers. Strict."""

import re
from dataclasses import dataclass
from functools import lru_cache

from magid.llama import Garbled, parse_head

MAX_CHUNK_LINE = 256  # bytes of a chunk's size with its extensions

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n\x00]*)?")
_WHOLE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")  # without extensions
_LENGTH = re.compile(rb"[0-9]{1,12}")


class ChunkReader:
    """Follows a chunked body, segment by segment, to its end. No trailers.

    With `keep` the payload is collected in `payload`; else bytes are only counted, so that a relay
    passes them on as they are.
    """

    __slots__ = ("_left", "_line", "count", "done", "payload", "size")

    def __init__(self, *, keep: bool) -> None:
        self._left = 0  # of the present chunk, with the CRLF behind it
        self._line = b""  # a size line of which the end has not come
        self.payload: list[bytes] | None = [] if keep else None
        self.size = 0  # of the payload so far
        self.count = 0  # of its chunks
        self.done = False

    @property
    def is_inside(self) -> bool:
        """Whether the bytes so far end within a chunk, so that nothing can be put behind them."""
        return bool(self._left or self._line)

    def feed(self, data: bytes) -> int:
        """How many of these bytes belong to the body. Raises Garbled."""
        at, end = 0, len(data)
        if not self._left and not self._line and self._is_one_chunk(data):
            return end
        while at < end and not self.done:
            if self._left:
                at = self._inside(data, at)
            elif self._line or not (after := self._whole_chunks(data, at)) > at:
                at = self._size_line(data, at)
            else:
                at = after
        return at

    def _whole_chunks(self, data: bytes, at: int) -> int:
        """Past all chunks that are whole in `data`: a few times as fast as one part at a time."""
        match_size, find, payload = _WHOLE_LINE.match, data.startswith, self.payload
        while (line := match_size(data, at)) is not None:
            size = int(line[1], 16)
            stop = line.end() + size
            if not size or not find(b"\r\n", stop):
                break
            if payload is not None:
                payload.append(data[line.end() : stop])
            self.size += size
            self.count += 1
            at = stop + 2
        return at

    def _is_one_chunk(self, data: bytes) -> bool:
        """Whether this is one chunk, whole and not the last: as llama-server sends its events."""
        found = data.find(b"\r\n", 0, MAX_CHUNK_LINE)
        match = _SIZE.fullmatch(data, 0, found) if found > 0 else None
        if match is None or not data.endswith(b"\r\n"):
            return False
        size = int(match[1], 16)
        if not size or len(data) != found + size + 4:
            return False
        self.size += size
        self.count += 1
        if self.payload is not None:
            self.payload.append(data[found + 2 : -2])
        return True

    def _inside(self, data: bytes, at: int) -> int:
        step = min(self._left, len(data) - at)
        content = min(step, max(0, self._left - 2))
        if self.payload is not None and content:
            self.payload.append(data[at : at + content])
        tail = data[at + content : at + step]
        if tail and tail != b"\r\n"[2 - self._left + content :][: len(tail)]:
            raise Garbled("a chunk does not end where it should")
        self._left -= step
        return at + step

    def _size_line(self, data: bytes, at: int) -> int:
        found = data.find(b"\n", at)
        line = self._line + data[at : len(data) if found < 0 else found + 1]
        if len(line) > MAX_CHUNK_LINE:
            raise Garbled("a chunk's size is too long")
        if found < 0:
            self._line = line
            return len(data)
        if line.startswith(b"0\r\n"):
            return self._last(line, found + 1)
        match = _SIZE.fullmatch(line[:-2]) if line.endswith(b"\r\n") else None
        if match is None:
            raise Garbled("a chunk's size is malformed")
        size = int(match[1], 16)
        self._line = b""
        if not size:
            self._line = b"0\r\n"
            return found + 1
        self.size += size
        self.count += 1
        self._left = size + 2
        return found + 1

    def _last(self, line: bytes, at: int) -> int:
        """Behind the last chunk, of size 0, stands an empty line and no trailer."""
        if line == b"0\r\n":
            self._line = line
        elif line == b"0\r\n\r\n":
            self._line, self.done = b"", True
        else:
            raise Garbled("there is a trailer behind the last chunk")
        return at


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """What matters of an answer's head. Without length and chunks it goes on until the end."""

    status: int
    content_type: bytes
    length: int | None
    is_chunked: bool
    keeps_alive: bool


@lru_cache(maxsize=256)  # those of streams are the same to the byte
def reply_head(head: bytes) -> ReplyHead:
    """Raises Garbled. Pure."""
    status, fields = parse_head(head)
    coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if coding is not None and (coding.lower() != b"chunked" or length is not None):
        raise Garbled("its transfer coding is not plainly chunked")
    if length is not None and not _LENGTH.fullmatch(length):
        raise Garbled("its length is not a number")
    return ReplyHead(
        status,
        fields.get(b"content-type", b"application/octet-stream"),
        0 if status in (204, 304) else None if length is None else int(length),
        coding is not None,
        fields.get(b"connection", b"").lower() != b"close" and head.startswith(b"HTTP/1.1"),
    )

"""Strict HTTP/1.1 framing without I/O: chunked bodies, and the heads of requests and answers."""

import re
import sys
from functools import lru_cache

from msgspec import Struct

from magid.errors import InvalidInput
from magid.http.limits import MAX_HEAD_LINES

MAX_CHUNK_LINE = 256  # bytes of the line with a chunk's size and its extensions


_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n\x00]*)?")
_WHOLE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")  # without extensions
_LENGTH = re.compile(rb"[0-9]{1,12}")


_LAST = b"0\r\n"


def is_trailer(line: bytes) -> bool:
    """Whether this is a whole field that decides nothing about the request it stands behind."""
    field = _FIELD.fullmatch(line[:-2]) if line.endswith(b"\r\n") else None
    return field is not None and field[1].lower() not in _ONCE_IN_REQUEST


class ChunkReader:
    """Finds the end of a chunked body that arrives in segments.

    With `keep`, collects the payload in `payload`. Without it, only counts bytes: a relay passes
    the segments on unchanged. Drops up to `trailers` lines behind the body and refuses more.
    """

    __slots__ = ("_left", "_line", "_trailers", "count", "done", "payload", "size")

    def __init__(self, *, keep: bool, trailers: int = 0) -> None:
        self._trailers = trailers
        self._left = 0  # bytes left of the current chunk, including the CRLF after it
        self._line = b""  # the beginning of a size line whose end has not arrived
        self.payload: list[bytes] | None = [] if keep else None
        self.size = 0  # bytes of payload so far
        self.count = 0  # chunks so far
        self.done = False

    @property
    def is_inside(self) -> bool:
        """Whether the bytes so far end within a chunk, where nothing may be inserted."""
        return bool(self._left or self._line)

    def takes_one(self, data: bytes) -> bool:
        """Takes exactly one complete chunk, as llama-server sends each event; else returns False.

        Then nothing was taken, and `feed` knows what it is.
        """
        line = None if self._left or self._line else _WHOLE_LINE.match(data)
        if line is None:
            return False
        size = int(line[1], 16)
        start = line.end()
        if not size or len(data) != start + size + 2 or not data.endswith(b"\r\n"):
            return False
        self.size += size
        self.count += 1
        if self.payload is not None:
            self.payload.append(data[start:-2])
        return True

    def feed(self, data: bytes, most: int | None = None) -> int:
        """Returns how many of these bytes belong to the body. Raises ProtocolError.

        With `most`, stops after about that many chunks; pass the remaining bytes in again.
        """
        at, end = 0, len(data)
        if self.takes_one(data):
            return end
        last = sys.maxsize if most is None else self.count + most
        while at < end and not self.done and self.count < last:
            if self._left:
                at = self._inside(data, at)
            elif self._line or not (after := self._whole_chunks(data, at, last)) > at:
                at = self._size_line(data, at)
            else:
                at = after
        return at

    def _whole_chunks(self, data: bytes, at: int, last: int) -> int:
        """Skips the chunks that are complete in `data`; several times as fast as `_inside`."""
        match_size, find, payload = _WHOLE_LINE.match, data.startswith, self.payload
        while self.count < last and (line := match_size(data, at)) is not None:
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

    def _inside(self, data: bytes, at: int) -> int:
        step = min(self._left, len(data) - at)
        content = min(step, max(0, self._left - 2))
        if self.payload is not None and content:
            self.payload.append(data[at : at + content])
        tail = data[at + content : at + step]
        if tail and tail != b"\r\n"[2 - self._left + content :][: len(tail)]:
            raise ProtocolError("a chunk does not end where it should")
        self._left -= step
        return at + step

    def _size_line(self, data: bytes, at: int) -> int:
        found = data.find(b"\n", at)
        line = self._line + data[at : len(data) if found < 0 else found + 1]
        if len(line) > MAX_CHUNK_LINE:
            raise ProtocolError("a chunk's size is too long")
        if found < 0:
            self._line = line
            return len(data)
        if line.startswith(_LAST):
            return self._last(line, found + 1)
        match = _SIZE.fullmatch(line[:-2]) if line.endswith(b"\r\n") else None
        if match is None:
            raise ProtocolError("a chunk's size is malformed")
        size = int(match[1], 16)
        self._line = b""
        if not size:
            self._line = _LAST
            return found + 1
        self.size += size
        self.count += 1
        self._left = size + 2
        return found + 1

    def _last(self, line: bytes, at: int) -> int:
        """Reads what may follow the last chunk, which has size 0: trailers, then an empty line."""
        if line == _LAST:
            self._line = line
        elif line == _LAST + b"\r\n":
            self._line, self.done = b"", True
        elif self._trailers and is_trailer(line[len(_LAST) :]):
            self._trailers -= 1
            self._line = _LAST
        else:
            raise ProtocolError("there is a trailer after the last chunk that is not taken")
        return at


class ReplyHead(Struct, frozen=True):
    """The relevant part of an answer's head. Without length and chunks the body ends at EOF."""

    status: int
    content_type: bytes
    length: int | None
    is_chunked: bool
    keeps_alive: bool


def reply_head(head: bytes) -> ReplyHead:
    """Parses the head of an answer. Raises ProtocolError. Pure."""
    return _known_head(head) if len(head) <= _KNOWN_BYTES else _reply_head(head)


def _reply_head(head: bytes) -> ReplyHead:
    status, fields = parse_head(head)
    coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if coding is not None and (coding.lower() != b"chunked" or length is not None):
        raise ProtocolError("its transfer coding is not simply chunked")
    if length is not None and not _LENGTH.fullmatch(length):
        raise ProtocolError("its length is not a number")
    has_body = coding is not None or length not in (None, b"0")
    _check_status(status, has_body=has_body)
    return ReplyHead(
        status,
        _content_type(fields.get(b"content-type")),
        0 if status == 204 else None if length is None else int(length),
        coding is not None,
        fields.get(b"connection", b"").lower() != b"close" and head.startswith(b"HTTP/1.1"),
    )


_KNOWN_BYTES = 1024  # llama-server's heads are shorter, and identical for all streams
_known_head = lru_cache(maxsize=256)(_reply_head)


def _check_status(status: int, *, has_body: bool) -> None:
    """Refuses what magid never requests: another protocol, a redirect, "not modified"."""
    if status == 101 or 300 <= status < 400:
        raise ProtocolError(f"its status is {status}, which magid did not request")
    if has_body and (status < 200 or status == 204):
        raise ProtocolError(f"an answer with status {status} must not have a body")


_TYPES = re.compile(
    rb"(application/json|text/event-stream|text/plain)[ \t]*"
    rb'(;[ \t]*charset="?utf-8"?[ \t]*$)?(?:;|$)', re.IGNORECASE
)  # fmt: skip
_TEXT = b"text/plain; charset=utf-8"


def _content_type(given: bytes | None) -> bytes:
    """Returns the type to send to the client. Raises ProtocolError for one that is not allowed.

    Allowed are types that a browser does not run, with no parameter but UTF-8. An answer without
    a type is text.
    """
    if given is None:
        return _TEXT
    match = _TYPES.match(given)
    if match is None:
        raise ProtocolError(f"its type {given[:60].decode('latin-1')!r} is not allowed")
    return (given if match[2] else match[1]).lower()


_START = re.compile(
    rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ (?:[Hh][Tt][Tt][Pp][Ss]?://([^/?#@\s]+))?/[\x21-\x7e]* "
    rb"HTTP/1\.([01])"
)
_HOST_LINE = re.compile(rb"(?mi)^host:[ \t]*([^\r\n]*?)[ \t]*\r?$")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_ONCE_IN_REQUEST = frozenset(
    b"host x-forwarded-host content-length transfer-encoding content-type origin authorization "
    b"x-api-key".split()
)


def check_head(head: bytes) -> None:
    """Refuses a request's head, start line included, that two parsers could read differently.

    Raises InvalidInput for a target that is neither a path nor a URL of the host that Host names,
    a malformed method, Transfer-Encoding in HTTP/1.0, and whatever
    `check_fields` refuses.
    """
    line, _, fields = head.partition(b"\r\n")
    start = _START.fullmatch(line)
    if start is None:
        raise InvalidInput(
            "cannot read the request: malformed start line; send METHOD /PATH HTTP/1.1"
        )
    check_fields(fields)
    if start[1] is not None:
        host = _HOST_LINE.search(fields)
        if host is None or host[1].lower() != start[1].lower():
            raise InvalidInput(
                "cannot read the request: the URL in its first line is not of the host that Host "
                "names; send METHOD /PATH HTTP/1.1"
            )
    if start[2] == b"0" and re.search(rb"(?mi)^transfer-encoding:", fields):
        raise InvalidInput("cannot read the request: HTTP/1.0 has no transfer-encoding")


def path_of(target: bytes) -> bytes:
    """The path and query of a target that `check_head` has accepted."""
    return target if target.startswith(b"/") else b"/" + target.split(b"/", 3)[3]


LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """Returns the data as one chunk; nothing for none, since an empty one is the last."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def check_fields(raw: bytes) -> None:
    """Refuses header lines that two parsers could read differently. `raw` has no start line.

    Raises InvalidInput for a bare CR or LF, a folded line, space before the colon, control
    characters, a repeated field that decides framing or trust, a Content-Length that is not all
    digits, and Content-Length together with Transfer-Encoding.
    """
    seen: set[bytes] = set()
    for line in raw.split(b"\r\n"):
        match = _FIELD.fullmatch(line)
        if match is None:
            raise InvalidInput(
                "cannot read the request: malformed header line; send valid HTTP/1.1"
            )
        name = match[1].lower()
        if name in seen and name in _ONCE_IN_REQUEST:
            raise InvalidInput(
                f"cannot read the request: the header {name.decode()} is given twice; send it once"
            )
        seen.add(name)
        if name == b"content-length" and not match[2].strip(b" \t").isdigit():
            raise InvalidInput("cannot read the request: content-length is not a number")
    if b"content-length" in seen and b"transfer-encoding" in seen:
        raise InvalidInput(
            "cannot read the request: content-length and transfer-encoding exclude each other"
        )


_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_HEADER_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")


class ProtocolError(Exception):
    """The peer violated HTTP/1.1; the text says how."""


def parse_head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    """Returns an answer's status and headers, with names in lower case. Strict, as RFC 9112 is.

    Raises ProtocolError, for example for folded lines, space before a colon, or two lengths.
    """
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n", MAX_HEAD_LINES + 1)
    if len(lines) > MAX_HEAD_LINES:
        raise ProtocolError("its head has too many lines")
    status_line = _STATUS_LINE.fullmatch(first)
    if not status_line:
        raise ProtocolError("it is not HTTP")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        header = _HEADER_LINE.fullmatch(line)
        if not header:
            raise ProtocolError("a header is malformed")
        name, value = header[1].lower(), header[2].strip()
        if name in headers and name in _ONCE:
            raise ProtocolError(f"there are two {name.decode()} headers")
        headers[name] = value
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise ProtocolError("it is compressed, which magid did not request")
    return int(status_line[1]), headers


_ONCE = frozenset((b"content-length", b"transfer-encoding", b"content-type", b"content-encoding"))

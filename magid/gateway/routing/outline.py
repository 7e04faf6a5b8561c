"""A large body as a small JSON text: long strings are cut out of it, its values are counted. Pure.

A parser holds the interpreter from a body's first byte to its last: seconds for 10 million empty
lists, and a string with one emoji takes four times its size. So a large body is not parsed as a
whole. It is scanned in steps of about a millisecond; each string of CUT_BYTES and over is
replaced by a mark with a digest of its text, numbers in a row by one number that is their mark, and
what is left is bounded before it is parsed. Of the body nothing is copied but what is then parsed,
and not even that where nothing was cut.
"""

import re
import secrets
from collections.abc import Generator, Iterator, Mapping
from hashlib import blake2b
from typing import Any

from msgspec import Struct

from magid.errors import InvalidInput
from magid.http.json_text import from_json

WHOLE_BYTES = 65_536  # a body up to this size is parsed as it is: at most 10 ms
STEP_BYTES = 32_768
CUT_BYTES = 1024  # of text, so that it does not matter how a client escapes it
CUT_NUMBERS = 2048  # bytes of numbers in a row, each of which would take 36 bytes as an object
MAX_BYTES = 4 * 2**20  # of a body without its long strings
# 200,000 token ids, or 6,000 messages. One costs 0.1 us; lists, objects and keys weigh as much as
# it takes to make them.
MAX_WEIGHT = 262_144
HEAVY = 5
HEAVY_CUT = 16
MAX_DIGITS = 128  # of one number: what a longer one costs grows with its square

Body = bytes | bytearray
Buffer = bytes | memoryview
Steps = Generator[None, None, "Outline"]

_KEY = secrets.token_bytes(32)  # no client can forge a text that looks like a mark
_MARK = re.compile(r"cut:[0-9a-f]{32}")
_NUMBER_MARK = 10**39  # and a digest of 128 bits: 40 digits
_MARK_BYTES = re.compile(rb"cut:[0-9a-f]{32}|(?<![0-9.eE+-])1[0-9]{39}(?![0-9.eE])")
# What is outside of strings, and short strings: a long one ends the match at its quote.
_SHORT = rb'"(?:[^"\\]{0,%d}+"|(?:[^"\\]|\\.){0,%d}+")' % (CUT_BYTES, CUT_BYTES)
_PLAIN = re.compile(rb'(?:[^"]++|%b)*+' % _SHORT, re.DOTALL)
_STRINGS = re.compile(_SHORT, re.DOTALL)
_ESCAPED = re.compile(  # whole characters: both halves of a pair, or none
    rb'(?:[^"\\]|\\u[dD][89abAB]..\\u....|\\u(?![dD][89abAB])....|\\[^u])*+', re.DOTALL
)
# From the first byte of a row alone: a row that is too short is not tried again from the next one.
_NUMBERS = re.compile(rb"(?<![-+.eE0-9, \t\r\n])[-+.eE0-9, \t\r\n]{%d,}+" % CUT_NUMBERS)
_SPACES = re.compile(rb"[ \t\r\n]{2,}")
_DIGITS = re.compile(rb"[0-9]{%d}" % (MAX_DIGITS + 1))
_CONTROLS = bytes(range(32))
_NOT_JSON = "cannot read the request body: it is not JSON"


class Cut(Struct, frozen=True):
    """A string that was cut out: where it stands between its quotes, and how long its text is.

    Or numbers in a row, with the commas between them; of these `chars` says how many there are.
    """

    start: int
    stop: int
    chars: int


class Outline(Struct, frozen=True):
    """`fields` are the body's, with marks in the place of long strings; `cuts` are by mark."""

    fields: Any
    body: Body
    cuts: Mapping[str, Cut]

    def chars(self, text: str) -> int:
        """Returns the real length of this text from `fields`."""
        if text in self.cuts:
            return self.cuts[text].chars
        marks = _marks(text)
        return len(text) + sum(self.cuts[m].chars - len(m) for m in marks if m in self.cuts)

    def length(self, items: list[Any]) -> int:
        """Returns the real length of this list from `fields`."""
        marks = (self.cuts.get(str(one)) for one in items if type(one) is int)
        return len(items) + sum(cut.chars - 1 for cut in marks if cut is not None)

    def excerpt(self, text: str, chars: int) -> str:
        """This text from `fields`: its first and last characters, so many of either at least."""
        if len(text) > 2 * chars:
            text = f"{text[:chars]}\n{text[-chars:]}"
        for mark in [*_marks(text)][:_EXCERPTS]:
            cut = self.cuts.get(mark)
            if cut is not None:
                text = text.replace(mark, _excerpt(self.body, cut, chars), 1)
        return text

    def restored(self, text: bytes) -> Iterator[Buffer]:
        """JSON made of `fields`, with what was cut out as it came. Copies neither."""
        whole, rest, at = memoryview(self.body), memoryview(text), 0
        for found in _MARK_BYTES.finditer(text):
            cut = self.cuts.get(found[0].decode())
            if cut is not None:
                yield rest[at : found.start()]
                yield whole[cut.start : cut.stop]
                at = found.end()
        yield rest[at:]


_EXCERPTS = 8  # long strings in an excerpt: the first ones tell enough


def _marks(text: str) -> list[str]:
    return _MARK.findall(text) if "cut:" in text else []


def outlined(body: Body) -> Steps:
    """Takes about a millisecond for each step, and up to 30 for the last. Raises InvalidInput."""
    scan = _Scan(body)
    yield from scan.steps()
    text = scan.text()
    yield
    try:
        return Outline(from_json(text, cache_strings="keys"), body, scan.cuts)
    except ValueError:  # its position would be one in the outline
        raise InvalidInput(_NOT_JSON) from None


class _Scan:
    def __init__(self, body: Body) -> None:
        self._body = body
        self._weight = self._size = 0
        self._kept: list[tuple[int, int] | bytes] = []  # parts of the body, and what replaces some
        self.cuts: dict[str, Cut] = {}

    def steps(self) -> Generator[None, None, None]:
        body, at = self._body, 0
        while at < len(body):
            end = _match_end(_PLAIN, body, at, at + STEP_BYTES)
            self._take_plain(at, end)
            at = end
            if at < len(body) and body[at] == _QUOTE:
                at = yield from self._string(at + 1)
            yield

    def text(self) -> Body:
        """What is to be parsed: the body itself where nothing was replaced."""
        if self._kept == [(0, len(self._body))]:
            return self._body
        whole = memoryview(self._body)
        return b"".join(
            part if isinstance(part, bytes) else whole[part[0] : part[1]] for part in self._kept
        )

    def _take_plain(self, start: int, stop: int) -> None:
        text = bytes(self._body[start:stop])
        outside = _STRINGS.sub(b"", text)
        if _DIGITS.search(outside):
            raise InvalidInput(
                f"cannot take this request: a number in it has over {MAX_DIGITS} digits"
            )
        heavy = outside.count(b"[") + outside.count(b"{") + outside.count(b":")
        self._weight += outside.count(b",") + HEAVY * heavy
        at = 0
        for run in _NUMBERS.finditer(text):  # longer than any short string, so in none of them
            first, last = text.find(b",", *run.span()) + 1, text.rfind(b",", *run.span())
            if 0 < first < last:
                self._keep(start + at, start + first)
                self._cut_numbers(text[first:last], start + first)
                at = last
        if (
            len(outside) == len(text)
            and len(spare := _SPACES.sub(b" ", text[at:])) < len(text) - at
        ):
            self._replace(spare)
        else:
            self._keep(start + at, stop)

    def _cut_numbers(self, numbers: bytes, start: int) -> None:
        """Cuts out whole numbers with commas between them. Raises InvalidInput if they are none."""
        try:
            from_json(b"[%b]" % numbers)
        except ValueError:
            raise InvalidInput(_NOT_JSON) from None
        digest = blake2b(numbers, digest_size=16, key=_KEY).digest()
        mark = str(_NUMBER_MARK + int.from_bytes(digest))
        self.cuts[mark] = Cut(start, start + len(numbers), numbers.count(b",") + 1)
        self._replace(mark.encode())

    def _keep(self, start: int, stop: int) -> None:
        """Keeps a part of the body as it is."""
        last = self._kept[-1] if self._kept else b""
        if isinstance(last, tuple) and last[1] == start:
            self._kept[-1] = (last[0], stop)
        elif start < stop:
            self._kept.append((start, stop))
        self._count(stop - start)

    def _replace(self, text: bytes) -> None:
        """Has this in the place of a part of the body."""
        self._kept.append(text)
        self._count(len(text))

    def _count(self, size: int) -> None:
        self._size += size
        if self._weight > MAX_WEIGHT or self._size > MAX_BYTES:
            raise InvalidInput(
                f"cannot take this request: it has too many parts; at most {MAX_WEIGHT} numbers, "
                f"{MAX_WEIGHT // HEAVY} lists, objects and keys, or {MAX_WEIGHT // HEAVY_CUT} long "
                f"texts, and {MAX_BYTES} bytes beside those; send several requests"
            )

    def _string(self, start: int) -> Generator[None, None, int]:
        """Behind the closing quote of the string that begins here."""
        body, at = self._body, start
        digest = blake2b(digest_size=16, key=_KEY)
        head, size, chars = b"", 0, 0
        while True:
            at, text, count = _text(body, at)
            digest.update(text)
            head, size, chars = head or text[:5], size + len(text), chars + count
            if body[at : at + 1] == b'"':
                break
            yield
        if size < CUT_BYTES:
            self._keep(start - 1, at + 1)
        else:
            if head.lower() != _DATA or body[start : start + len(_DATA)] != head:
                head = b""
            skipped = len(head)
            digest.update(head)  # with and without are two cuts
            mark = _mark(digest.hexdigest())
            self.cuts[mark] = Cut(start + skipped, at, chars - skipped)
            self._weight += HEAVY_CUT
            self._replace(b'"%b%b"' % (head, mark.encode()))
        return at + 1


_QUOTE = ord('"')
_DATA = b"data:"  # an address is known by its beginning, which stays


def _mark(hexdigest: str) -> str:
    return f"cut:{hexdigest}"


def _text(body: Body, at: int) -> tuple[int, bytes, int]:
    """A step through a string: where it has come to, the text up to there, and its characters."""
    stop = min(len(body), at + STEP_BYTES)
    end = body.find(b'"', at, stop)
    has_escapes = body.find(b"\\", at, stop if end < 0 else end) >= 0
    if has_escapes:
        end = _match_end(_ESCAPED, body, at, stop)
    elif end < 0:
        end = stop
    if end < len(body) and body[end] != _QUOTE:
        end = _at_character(body, end)
    raw = bytes(body[at:end])
    if end in (at, len(body)) and body[end : end + 1] != b'"':
        raise InvalidInput(_NOT_JSON)
    try:
        text: str = from_json(b'"%b"' % raw) if has_escapes else raw.decode()
    except ValueError:
        raise InvalidInput(_NOT_JSON) from None
    if not has_escapes and len(raw.translate(None, _CONTROLS)) != len(raw):
        raise InvalidInput(_NOT_JSON)
    return end, text.encode() if has_escapes else raw, len(text)


def _at_character(body: Body, end: int) -> int:
    """Here, or before the character that this is in the middle of."""
    while body[end] & 0xC0 == 0x80 and end:
        end -= 1
    return end


def _match_end(pattern: re.Pattern[bytes], body: Body, at: int, stop: int) -> int:
    found = pattern.match(body, at, min(len(body), stop))
    assert found is not None
    return found.end()


def _excerpt(body: Body, cut: Cut, chars: int) -> str:
    """Escaped, a character takes up to 12 bytes."""
    most = 12 * chars
    if cut.stop - cut.start <= 2 * most:
        return _decoded(bytes(body[cut.start : cut.stop]))
    end = _at_character(body, _match_end(_ESCAPED, body, cut.start, cut.start + most))
    tail = bytes(body[cut.stop - most : cut.stop])
    return f"{_decoded(bytes(body[cut.start : end]))}\n{_decoded(tail)}"


def _decoded(raw: bytes) -> str:
    """Where it begins within a character, without the rest of that."""
    for skipped in range(4):
        try:
            return str(from_json(b'"%b"' % raw[skipped:]))
        except ValueError:
            continue
    return ""


def shortened(value: Any) -> Any:
    """JSON data with its long strings as an outline has them, whatever body it came from."""
    if isinstance(value, str):
        return _shortened(value)
    if isinstance(value, list):
        return [shortened(item) for item in value]
    if isinstance(value, dict):
        return {_shortened(key): shortened(item) for key, item in value.items()}
    return value


def _shortened(text: str) -> str:
    if len(text) * 4 < CUT_BYTES:
        return text
    data = text.encode(errors="surrogatepass")
    if len(data) < CUT_BYTES:
        return text
    head = data[:5] if data[:5].lower() == _DATA else b""
    digest = blake2b(data, digest_size=16, key=_KEY)
    digest.update(head)
    return head.decode() + _mark(digest.hexdigest())

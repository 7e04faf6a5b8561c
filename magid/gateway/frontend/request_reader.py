"""Heads and bodies of requests for the gateway, strictly parsed and bounded. Pure but for a count.

A head passes the same checks as any other request (`auth.origins`). Only headers that mean
something to llama-server are passed on: no credentials, nothing about the connection.
"""

import re
from collections import OrderedDict
from collections.abc import Generator, Mapping
from typing import Any

from msgspec import Struct

from magid.auth import origins
from magid.auth.session_cookie import credential_from_cookie
from magid.auth.token_store import Caller
from magid.auth.tokens import Credential, credential_from_headers
from magid.errors import InvalidInput, MagidError, TooLarge
from magid.gateway.frontend.rewriting import rewritten
from magid.gateway.routing import compatibility, nulls, variants
from magid.gateway.routing.endpoints import Endpoint, Style, canonical
from magid.gateway.routing.fleet import ChosenVariant, Fleet
from magid.gateway.routing.outline import MAX_BYTES, WHOLE_BYTES, Body, Outline
from magid.gateway.routing.request import ParsedRequest, parse, parse_large, parse_query
from magid.http import content_coding, framing, request_rules
from magid.http.framing import ChunkReader, ProtocolError
from magid.http.json_text import to_json

_PASSED = re.compile(
    rb"accept|anthropic-(?:beta|version)|openai-beta|traceparent|x-conversation-id"
)
_LENGTH = re.compile(rb"[0-9]{1,15}")


class RequestHead(Struct, frozen=True):
    """The parts of a head that decide what happens. `length` is None where the body is chunked."""

    method: str
    path: str
    query: str
    length: int | None
    keeps_alive: bool
    is_1_0: bool
    expects: bool
    content_type: str
    is_json: bool
    presented: Credential | None  # a digest of the credential: not what they hold
    presented_id: str  # the digest in hex; empty: no credential
    client_request_id: str  # the caller's own, beside magid's; empty: it has none
    passed: bytes
    content_encoding: str = ""  # as it came; empty: the body is as it is
    origin: str | None = None
    requested_headers: str | None = None  # by a browser's preflight


def parse_request_head(raw: bytes, policy: origins.Policy | None) -> RequestHead:
    """`raw` without the empty line. Without a policy, on a unix socket, any Host will do.

    Raises as the checks of `auth.origins` do, and InvalidInput for an unknown encoding or
    expectation.
    """
    framing.check_head(raw)
    start, *lines = raw.split(b"\r\n")
    method, target, version = start.split(b" ")
    fields = {}
    for line in lines:
        name, _, value = line.partition(b":")
        fields[name.lower()] = value.strip(b" \t")
    text = {n.decode("latin-1"): v.decode("latin-1") for n, v in fields.items() if n in _CHECKED}
    presented = credential_from_headers(fields.get(b"authorization"), fields.get(b"x-api-key"))
    origin = None
    if policy is not None:
        changes = method.decode() not in request_rules.SAFE_METHODS
        origin = origins.check(text, policy, changes=changes)
        presented = presented or credential_from_cookie(text, origin, changes=changes)
    path, _, query = framing.path_of(target).decode("latin-1").partition("?")
    is_1_0 = version == b"HTTP/1.0"
    return RequestHead(
        method=method.decode(),
        path=canonical(path),
        query=query,
        length=_length(fields),
        keeps_alive=_keeps_alive(fields, is_1_0=is_1_0),
        is_1_0=is_1_0,
        expects=_expects(fields) and not is_1_0,  # it has no interim answers (RFC 9110, 10.1.1)
        content_type=text.get("content-type", ""),
        is_json=request_rules.counts_as_json(text),
        presented=presented,
        presented_id=presented.digest.hex() if presented else "",
        client_request_id=request_rules.client_request_id(text.get("x-request-id", "")),
        passed=b"".join(b"%b: %b\r\n" % (n, v) for n, v in fields.items() if _PASSED.fullmatch(n)),
        content_encoding=text.get("content-encoding", ""),
        origin=origin,
        requested_headers=text.get("access-control-request-headers"),
    )


_CHECKED = frozenset(
    b"access-control-request-headers content-encoding content-type cookie host origin "
    b"sec-fetch-site x-forwarded-host x-magi-page x-request-id".split()
)


def _length(fields: dict[bytes, bytes]) -> int | None:
    coding = fields.get(b"transfer-encoding")
    if coding is not None:
        if coding.lower() != b"chunked":
            raise InvalidInput("cannot read the request: its transfer-encoding is not chunked")
        return None
    length = fields.get(b"content-length", b"0")
    if not _LENGTH.fullmatch(length):
        raise InvalidInput("cannot read the request: its content-length is out of bounds")
    return int(length)


def _keeps_alive(fields: dict[bytes, bytes], *, is_1_0: bool) -> bool:
    words = [word.strip() for word in fields.get(b"connection", b"").lower().split(b",")]
    return b"keep-alive" in words if is_1_0 else b"close" not in words


def _expects(fields: dict[bytes, bytes]) -> bool:
    expectation = fields.get(b"expect")
    if expectation is not None and expectation.lower() != b"100-continue":
        raise InvalidInput("cannot read the request: unknown Expect; leave it out")
    return expectation is not None


def check_json(head: RequestHead) -> None:
    """Raises UnsupportedMediaType."""
    if not head.is_json:
        raise request_rules.not_json(head.content_type)


class RequestHeadCache:
    """Heads that were seen before: clients send the same one again and again. Bounded."""

    def __init__(self, policy: origins.Policy | None, limit: int = 256) -> None:
        self._policy = policy
        self._limit = limit
        self._heads: OrderedDict[bytes, RequestHead] = OrderedDict()

    def __call__(self, raw: bytes) -> RequestHead:
        head = self._heads.get(raw)
        if head is None:
            head = parse_request_head(raw, self._policy)
            if len(raw) <= 4096:
                self._heads[raw] = head
                if len(self._heads) > self._limit:
                    self._heads.popitem(last=False)
        return head


MAX_TRAILERS = 32  # lines behind a chunked body
STEP_BYTES = 16_384  # of a chunked body, between two looks at how many chunks it has


class BodyReader:
    """Reads a body with the length from the head, or chunked without one. Raises TooLarge.

    Keeps one copy of what has arrived. Returns a body that is too large to be parsed as the
    bytearray that it grew in.
    """

    __slots__ = ("_chunks", "_limit", "_missing", "_received", "_too_large", "rest")

    def __init__(self, length: int | None, limit: int, too_large: MagidError | None = None) -> None:
        """`too_large`: what a body over the limit is told, if it is none for a model."""
        self._too_large = too_large or _too_large(limit)
        self._limit = limit
        self._chunks = ChunkReader(keep=True, trailers=MAX_TRAILERS) if length is None else None
        self._missing = length or 0
        self._received = bytearray()
        self.rest = b""  # what came behind it
        if self._missing > limit:
            raise self._too_large

    def feed(self, data: bytes) -> bytes | bytearray | None:
        """Returns the body once it is complete, else None. Raises InvalidInput, TooLarge."""
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
        except ProtocolError as error:
            raise InvalidInput(f"cannot read the request: {error}") from None
        if chunks.size > self._limit:
            raise self._too_large
        request_rules.check_chunks(chunks.count, chunks.size)
        for part in chunks.payload or ():
            self._received += part
        chunks.payload = []
        return used

    def _whole(self) -> bytes | bytearray:
        received, self._received = self._received, bytearray()
        return settled(received)


def settled(body: bytearray) -> Body:
    """As bytes, if the body may be parsed: the parser would copy a bytearray, and hold both."""
    return body if len(body) > MAX_BYTES else bytes(body)


def _too_large(limit: int) -> TooLarge:
    return request_rules.body_too_large(limit, "gateway.max_body_bytes in magid.yaml")


def small_too_large(limit: int) -> TooLarge:
    return request_rules.body_too_large(limit, "for what is not a request to a model")


BOM = b"\xef\xbb\xbf"  # some programs begin a file with it; RFC 8259 lets a parser ignore it


class RequestBuilder(Struct, frozen=True):
    """All of a request but its body."""

    endpoint: Endpoint
    head: RequestHead
    request_id: str
    client: str
    caller: Caller
    max_body_bytes: int  # also of a body that has to be decoded
    now: Fleet = Fleet()  # whose variants count

    def needs_steps(self, body: bytes | bytearray) -> bool:
        """Whether `build` would block the event loop too long, or cannot read the body."""
        has_coding = bool(self.head.content_encoding)
        return (has_coding or len(body) > WHOLE_BYTES) and not self.endpoint.asks_by_query

    def build(self, body: bytes | bytearray) -> ParsedRequest:
        """Parses the body; blocks the event loop meanwhile. Raises InvalidInput."""
        if self.endpoint.asks_by_query:
            return self._parsed(b"", *parse_query(self.head.query))
        if body[:3] == BOM:
            body = body[3:]
        fields, model = parse(self.endpoint, body)
        chosen = variants.find(model, self.now)
        if chosen is not None or self.endpoint.style is Style.OLLAMA:
            endpoint, fields = rewritten(self.endpoint, fields, chosen)
            return self._parsed(to_json(fields), fields, model, None, endpoint, chosen)
        body = nulls.without(self.endpoint, bytes(body), fields)
        if compatibility.adapt(self.endpoint, fields):
            body = to_json(fields)
        return self._parsed(body, fields, model)

    def build_in_steps(self, body: bytes | bytearray) -> Generator[None, None, ParsedRequest]:
        """Parses any body in steps, between which the event loop serves others.

        Raises UnsupportedMediaType and TooLarge too, for what was compressed.
        """
        coding = content_coding.coding_of(self.head.content_encoding)
        if coding:
            limit = self.max_body_bytes
            whole = yield from content_coding.decoded(body, coding, limit, _too_large(limit))
            body = settled(whole)
            del whole
        if len(body) <= WHOLE_BYTES:
            return self.build(bytes(body))
        if body[:3] == BOM:
            body = body[3:]
        fields, model, outline = yield from parse_large(self.endpoint, body)
        yield
        chosen = variants.find(model, self.now)
        if chosen is not None or self.endpoint.style is Style.OLLAMA:
            endpoint, fields = rewritten(self.endpoint, fields, chosen)
            request = self._parsed(body, fields, model, outline, endpoint, chosen).changed(fields)
        else:
            request = self._adapted(body, fields, model, outline)
        if self.endpoint.generates:
            yield
            _ = request.prompt  # which takes a step of its own
        return request

    def _adapted(
        self, body: bytes | bytearray, fields: dict[str, Any], model: str, outline: Outline
    ) -> ParsedRequest:
        request = self._parsed(body, fields, model, outline)
        changed = bool(nulls.dropped(self.endpoint, fields))
        if compatibility.adapt(self.endpoint, fields) or changed:
            request = request.changed(fields)
        return request

    def _parsed(
        self, body: bytes | bytearray, fields: Mapping[str, Any], model: str,
        outline: Outline | None = None, endpoint: Endpoint | None = None,
        chosen: ChosenVariant | None = None,
    ) -> ParsedRequest:  # fmt: skip
        head, caller = self.head, self.caller
        return ParsedRequest(
            endpoint or self.endpoint, body, fields, model, self.request_id, self.client,
            head.passed, caller.name, caller.models, head.client_request_id, outline,
            variant=chosen.name if chosen else "",
        )  # fmt: skip

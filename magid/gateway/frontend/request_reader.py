"""The head of a request for the gateway, strictly parsed. Pure but for a count.

It passes the same checks as any other request (`guard`). Of its headers only those go on to
llama-server that say something to it: no credentials, nothing about the connection.
"""

import re
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from itertools import count

from magid.auth import origins
from magid.auth.tokens import Presented, present
from magid.errors import InvalidInput, UnsupportedMediaType

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_PASSED = re.compile(
    rb"accept|anthropic-(?:beta|version)|openai-beta|traceparent|x-conversation-id"
)
_LENGTH = re.compile(rb"[0-9]{1,15}")
_serial = count(1)
_PROCESS = secrets.token_hex(8)  # so that ids of two lives of the daemon differ


@dataclass(frozen=True, slots=True)
class Head:
    """What of a head decides what happens. `length` is None where the body is chunked."""

    method: str
    path: str
    query: str
    length: int | None
    keeps_alive: bool
    is_1_0: bool
    expects: bool
    is_json: bool
    presented: Presented | None  # a digest of the credential: not what they hold
    client_request_id: str  # the caller's own, beside magid's; empty: it has none
    passed: bytes
    origin: str | None = None


def parse(raw: bytes, policy: origins.Policy | None) -> Head:
    """`raw` without the empty line. Without a policy, on a unix socket, any Host will do.

    Raises as guard's checks do, and InvalidInput for an encoding or expectation it does not know.
    """
    origins.check_head(raw)
    start, *lines = raw.split(b"\r\n")
    method, target, version = start.split(b" ")
    fields = {}
    for line in lines:
        name, _, value = line.partition(b":")
        fields[name.lower()] = value.strip(b" \t")
    text = {n.decode("latin-1"): v.decode("latin-1") for n, v in fields.items() if n in _CHECKED}
    origin = None
    if policy is not None:
        origins.check_host(text.get("host"), policy)
        changes = method not in (b"GET", b"HEAD", b"OPTIONS")
        origin = origins.check_origin(text, policy, changes=changes)
    path, _, query = target.decode("latin-1").partition("?")
    is_1_0 = version == b"HTTP/1.0"
    given = fields.get(b"x-request-id", b"")
    return Head(
        method=method.decode(),
        path=path,
        query=query,
        length=_length(fields),
        keeps_alive=_keeps_alive(fields, is_1_0=is_1_0),
        is_1_0=is_1_0,
        expects=_expects(fields),
        is_json=fields.get(b"content-type", b"").partition(b";")[0].strip().lower() == _JSON,
        presented=present(fields.get(b"authorization"), fields.get(b"x-api-key")),
        client_request_id=given.decode() if _REQUEST_ID.fullmatch(given) else "",
        passed=b"".join(b"%b: %b\r\n" % (n, v) for n, v in fields.items() if _PASSED.fullmatch(n)),
        origin=origin,
    )


_CHECKED = (b"host", b"origin", b"sec-fetch-site")
_JSON = b"application/json"


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


def check_json(head: Head) -> None:
    """Raises UnsupportedMediaType: a web form of another site could send any other type."""
    if not head.is_json:
        raise UnsupportedMediaType(
            "cannot read a body that is not JSON; send Content-Type: application/json"
        )


def next_request_id() -> str:
    return f"{_PROCESS}{next(_serial):x}"


class Parsed:
    """Heads that were seen before: clients send the same one again and again. Bounded."""

    def __init__(self, policy: origins.Policy | None, limit: int = 256) -> None:
        self._policy = policy
        self._limit = limit
        self._heads: OrderedDict[bytes, Head] = OrderedDict()

    def __call__(self, raw: bytes) -> Head:
        head = self._heads.get(raw)
        if head is None:
            head = parse(raw, self._policy)
            if len(raw) <= 4096:
                self._heads[raw] = head
                if len(self._heads) > self._limit:
                    self._heads.popitem(last=False)
        return head

"""The HTTP client for llama-server: health, properties, metrics, and whether a server is ours.

It makes one request per connection, bounded in size and time. A full client library would double
the daemon's start-up time for these few requests.
"""

import asyncio
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from magid.errors import BadReply, ServerUnreachable
from magid.host.ports import HostPort
from magid.http.framing import ProtocolError, parse_head
from magid.http.limits import MAX_CHUNKS, MAX_COLLECTED_BYTES, MAX_HEAD_BYTES, parsed
from magid.llama import connection

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")


class Health(StrEnum):
    """The result of a request to /health."""

    UNREACHABLE = "unreachable"  # refused, or no answer in time
    LOADING = "loading"  # 503: the model is being read
    OK = "ok"
    ERROR = "error"  # another status, or not HTTP


def says_loaded(line: str) -> bool:
    """Whether llama-server says in this line of its output that it has just become ready.

    It prints that when /health has turned to 200. Only a hint: the log may be off.
    """
    return "model loaded" in line


async def check_health(endpoint: HostPort, *, timeout_s: float = 2.0) -> Health:
    """Requests /health, which needs no key. Never raises."""
    try:
        status, _ = await get_json(endpoint, "/health", key=None, timeout_s=timeout_s)
    except BadReply:
        return Health.ERROR
    except ServerUnreachable:
        return Health.UNREACHABLE
    return {200: Health.OK, 503: Health.LOADING}.get(status, Health.ERROR)


async def why_foreign(
    endpoint: HostPort, key: str, alias: str, *, uid: int | None = None, timeout_s: float = 5.0
) -> str | None:
    """Returns why this is not the server that was started with this key and alias; None if it is.

    Only our server refuses a random key, accepts ours, and has our alias. /props needs a key;
    /health is public in every version, and /v1/models in those before 2026. Raises
    ServerUnreachable if it does not answer, or does not run as the user `uid`.
    """
    wrong = secrets.token_urlsafe(32)
    status, _ = await get_json(endpoint, "/props", key=wrong, uid=uid, timeout_s=timeout_s)
    if status != 401:
        return f"it answers a wrong key with {status} instead of 401"
    status, props = await get_json(endpoint, "/props", key=key, uid=uid, timeout_s=timeout_s)
    if status != 200:
        return f"it answers our key with {status}"
    shown = _model_alias(props)
    if shown is None:
        shown = await _first_model(endpoint, key, uid, timeout_s)
    return None if shown == alias else f"it serves {shown!r}, not {alias!r}"


def _model_alias(props: object) -> str | None:
    alias = props.get("model_alias") if isinstance(props, dict) else None
    return alias if isinstance(alias, str) else None


async def _first_model(
    endpoint: HostPort, key: str, uid: int | None, timeout_s: float
) -> str | None:
    """Returns the alias of a server whose /props has none (before mid-2025)."""
    status, models = await get_json(endpoint, "/v1/models", key=key, uid=uid, timeout_s=timeout_s)
    match models:
        case {"data": [{"id": str(shown)}, *_]} if status == 200:
            return shown
        case _:
            return None


async def get_json(
    endpoint: HostPort,
    path: str,
    *,
    key: str | None,
    uid: int | None = None,
    timeout_s: float,
    body: bytes | None = None,
) -> tuple[int, object]:
    """Requests one path on a new connection; returns the status, and the body's JSON or None.

    Sends a POST if there is a `body`, which must be JSON. Sends nothing to a program that does not
    run as `uid` (None: unknown). `timeout_s` covers the whole exchange; `http.limits` bounds its
    size. Raises ServerUnreachable, or its subclass BadReply if the answer is not valid HTTP.
    """
    status, answer = await _ask(endpoint, path, key, uid, timeout_s, body)
    try:
        return status, parsed(answer)
    except ValueError:
        return status, None


async def get_metrics(
    endpoint: HostPort, *, key: str | None, uid: int | None = None, timeout_s: float
) -> bytes:
    """Returns the server's /metrics unchanged; limits and errors are as in `get_json`.

    Does not wake a sleeping model (0.7.0). Also raises BadReply if the server has no metrics.
    """
    status, text = await _ask(endpoint, "/metrics", key, uid, timeout_s, None)
    if status == 501:
        raise BadReply(
            f"cannot get metrics of the server at {endpoint}: it runs without --metrics; update "
            "llama-server if it does not have this option, then restart the server"
        )
    if status != 200:
        raise BadReply(f"cannot get metrics of the server at {endpoint}: it answers with {status}")
    return text


async def _ask(
    endpoint: HostPort,
    path: str,
    key: str | None,
    uid: int | None,
    timeout_s: float,
    body: bytes | None,
) -> tuple[int, bytes]:
    with _as_unreachable(endpoint):
        async with asyncio.timeout(timeout_s):
            return await _get(endpoint, uid, _request(endpoint, path, key, body))


@contextmanager
def _as_unreachable(endpoint: HostPort) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise ServerUnreachable(
            f"cannot reach the server at {endpoint}: no answer in time"
        ) from None
    except (TooLong, asyncio.LimitOverrunError):
        raise BadReply(f"cannot read the answer of {endpoint}: it is too long") from None
    except asyncio.IncompleteReadError:
        raise BadReply(f"cannot read the answer of {endpoint}: it ends too early") from None
    except ProtocolError as error:
        raise BadReply(f"cannot read the answer of {endpoint}: {error}") from None
    except OSError as error:
        why = error.strerror or str(error)
        raise ServerUnreachable(f"cannot reach {endpoint}: {why}") from error


class TooLong(Exception):
    """More bytes than the limit."""


def _request(endpoint: HostPort, path: str, key: str | None, body: bytes | None) -> bytes:
    lines = [
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
        f"Host: {endpoint}",
        "Accept: application/json",
        "Connection: close",
    ]
    if key is not None:
        lines.append(connection.authorization(key))
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if not all(line.isascii() and line.isprintable() for line in lines):
        raise ValueError("a path and a key consist of printable ASCII")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b"")


async def _get(endpoint: HostPort, uid: int | None, request: bytes) -> tuple[int, bytes]:
    reader, writer = await connection.connect(
        endpoint.connect_host, endpoint.port, uid, limit=MAX_HEAD_BYTES
    )
    try:
        writer.write(request)
        await writer.drain()
        status, headers = parse_head(await reader.readuntil(b"\r\n\r\n"))
        return status, await _read_body(reader, status, headers)
    finally:
        writer.close()


async def _read_body(
    reader: asyncio.StreamReader, status: int, headers: dict[bytes, bytes]
) -> bytes:
    length, coding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
    if status < 200:
        raise ProtocolError(f"its status is {status}")
    if status in (204, 304):
        return b""
    if coding is not None:
        if coding.lower() != b"chunked" or length is not None:
            raise ProtocolError("its transfer coding is not simply chunked")
        return await _read_chunks(reader)
    if length is None:
        return await read_at_most(reader, MAX_COLLECTED_BYTES)
    if not re.fullmatch(rb"[0-9]{1,12}", length):
        raise ProtocolError("its length is not a number")
    if int(length) > MAX_COLLECTED_BYTES:
        raise TooLong
    return await reader.readexactly(int(length))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    chunks = 0  # bounds one turn of the event loop: reading does not wait while there are chunks
    while size := await _chunk_size(reader):
        chunks += 1
        if len(body) + size > MAX_COLLECTED_BYTES or chunks > MAX_CHUNKS:
            raise TooLong
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise ProtocolError("a chunk does not end where it should")
    return bytes(body)  # ignores trailers: the connection is closed


async def _chunk_size(reader: asyncio.StreamReader) -> int:
    line = _CHUNK_SIZE.fullmatch(await reader.readuntil(b"\r\n"))
    if not line:
        raise ProtocolError("a chunk's size is malformed")
    return int(line[1], 16)


async def read_at_most(reader: asyncio.StreamReader, limit: int) -> bytes:
    """Reads until the end of the stream. Raises TooLong."""
    data = bytearray()
    while part := await reader.read(65_536):
        data += part
        if len(data) > limit:
            raise TooLong
    return bytes(data)

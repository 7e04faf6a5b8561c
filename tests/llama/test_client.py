"""The HTTP client for llama-server, and whether a server is ours."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.errors import BadReply, ServerUnreachable
from magid.host.ports import HostPort
from magid.http.limits import MAX_COLLECTED_BYTES
from magid.llama.client import Health, check_health, get_json, get_metrics, why_foreign
from tests.support import fake_llama
from tests.support.deadlines import PATIENCE_S


@asynccontextmanager
async def answering(
    *parts: bytes, close: bool = True
) -> AsyncIterator[tuple[HostPort, list[bytes]]]:
    """A server that gives every request this answer, part by part; and the requests it got."""
    requests: list[bytes] = []
    done = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            if not close:
                await done.wait()
        except ConnectionError:
            pass  # the client had enough
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    async with server:
        try:
            yield HostPort("127.0.0.1", port), requests
        finally:
            done.set()


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("parts", "status", "body"),
    [
        ([HEAD + b"Content-Length: 7\r\n\r\n", b'{"a":1}'], 200, {"a": 1}),
        ([HEAD + b"content-length:7\r\n\r\n", b'{"a"', b":1}ignored"], 200, {"a": 1}),
        ([HEAD + b"\r\n", b'{"a"', b":1}"], 200, {"a": 1}),
        ([CHUNKED, b'3\r\n{"a\r\n4;x=y\r\n":1}\r\n0\r\nTrailer: x\r\n\r\n'], 200, {"a": 1}),
        ([CHUNKED, b"0\r\n\r\n"], 200, None),
        ([HEAD[:-2] + b" with a longer reason\r\n\r\n[]"], 200, []),
        ([b"HTTP/1.0 503 \r\n\r\n{}"], 503, {}),
        ([b"HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n"], 404, None),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], 204, None),
        ([HEAD + b"Content-Length: 6\r\n\r\n<html>"], 200, None),
        ([HEAD + b"\r\n" + b"[" * 100_000], 200, None),
        ([HEAD + b"\r\n\xff\xfe"], 200, None),
        ([HEAD + b"Content-Length: 2\r\nX: a\r\nX: \xe4\r\n\r\n{}"], 200, {}),
    ],
)
async def test_answers(parts: list[bytes], status: int, body: object) -> None:
    async with answering(*parts) as (endpoint, _):
        assert await get_json(endpoint, "/x", key=None, timeout_s=PATIENCE_S) == (status, body)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"\r\n\r\n"],
        [b"SSH-2.0-OpenSSH_9.2\r\n\r\n"],
        [b"HTTP/2 200\r\n\r\n"],
        [b"HTTP/1.1 2000 OK\r\n\r\n"],
        [b"HTTP/1.1 099 OK\r\n\r\n"],
        [b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"\r\n"],
        [HEAD + b"Content-Length: 5\r\n"],
        [HEAD + b"Content-Length: 5\r\n\r\n{}"],
        [HEAD + b"Content-Length: -1\r\n\r\n{}"],
        [HEAD + b"Content-Length: 2, 2\r\n\r\n{}"],
        [HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}"],
        [HEAD + b"Content-Length : 2\r\n\r\n{}"],
        [HEAD + b"X: a\r\n folded\r\n\r\n{}"],
        [HEAD + b"X: a\nY: b\r\n\r\n{}"],
        [HEAD + b"X: \0\r\n\r\n{}"],
        [HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"],
        [HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
        [CHUNKED + b"x\r\n"],
        [CHUNKED + b"-1\r\n"],
        [CHUNKED + b"5\r\n{}\r\n"],
        [CHUNKED + b"2\r\n{}0\r\n\r\n"],
        [HEAD + b"X: " + b"a" * 20_000 + b"\r\n\r\n"],
        [HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_COLLECTED_BYTES + 1)],
        [CHUNKED + b"%x\r\n" % (MAX_COLLECTED_BYTES + 1)],
        [CHUNKED + b"5;" + b"x" * 20_000 + b"\r\n"],
        [HEAD + b"\r\n", *([b"x" * 65_536] * 20)],
    ],
)
async def test_what_is_no_answer(parts: list[bytes]) -> None:
    async with answering(*parts) as (endpoint, _):
        with pytest.raises(BadReply, match=f"cannot read the answer of {endpoint}"):
            await get_json(endpoint, "/x", key=None, timeout_s=PATIENCE_S)
        assert await check_health(endpoint, timeout_s=PATIENCE_S) is Health.ERROR


@pytest.mark.parametrize(
    "parts",
    [[], [HEAD], [HEAD + b"Content-Length: 5\r\n\r\n{}"], [CHUNKED + b"5\r\n"], [HEAD + b"\r\n{}"]],
)
async def test_a_server_that_stops_talking(parts: list[bytes]) -> None:
    async with answering(*parts, close=False) as (endpoint, _):
        with pytest.raises(ServerUnreachable, match="no answer in time"):
            await get_json(endpoint, "/x", key=None, timeout_s=0.1)
        assert await check_health(endpoint, timeout_s=0.1) is Health.UNREACHABLE


@pytest.mark.parametrize(
    ("status", "health"),
    [
        (200, Health.OK),
        (503, Health.LOADING),
        (500, Health.ERROR),
        (404, Health.ERROR),
        (302, Health.ERROR),
    ],
)
async def test_health(status: int, health: Health) -> None:
    async with answering(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status) as (endpoint, _):
        assert await check_health(endpoint, timeout_s=PATIENCE_S) is health


async def test_nobody_listens(free_port: Callable[[], int]) -> None:
    endpoint = HostPort("127.0.0.1", free_port())
    assert await check_health(endpoint) is Health.UNREACHABLE
    with pytest.raises(ServerUnreachable, match=r"cannot reach 127\.0\.0\.1:"):
        await why_foreign(endpoint, "key", "alias")


async def test_metrics_are_passed_on_as_they_are() -> None:
    text = b"# TYPE llamacpp:x counter\nllamacpp:x 1\n"
    async with answering(HEAD + b"\r\n" + text) as (endpoint, requests):
        assert await get_metrics(endpoint, key="s3cret", timeout_s=PATIENCE_S) == text
    assert b"GET /metrics HTTP/1.1" in requests[0]
    assert b"Authorization: Bearer s3cret" in requests[0]


@pytest.mark.parametrize(
    ("status", "says"), [(501, "it runs without --metrics"), (401, "it answers with 401")]
)
async def test_metrics_that_there_are_not(status: int, says: str) -> None:
    async with answering(b"HTTP/1.1 %d -\r\nContent-Length: 2\r\n\r\n{}" % status) as (endpoint, _):
        with pytest.raises(BadReply, match=says):
            await get_metrics(endpoint, key="k", timeout_s=PATIENCE_S)


async def test_metrics_without_end() -> None:
    async with answering(HEAD + b"\r\n" + b"x" * (MAX_COLLECTED_BYTES + 1)) as (endpoint, _):
        with pytest.raises(BadReply, match="it is too long"):
            await get_metrics(endpoint, key=None, timeout_s=PATIENCE_S)


async def test_what_is_sent() -> None:
    async with answering(HEAD + b"\r\n{}") as (endpoint, requests):
        await get_json(endpoint, "/props", key="s3cret", timeout_s=PATIENCE_S)
    assert requests == [
        f"GET /props HTTP/1.1\r\nHost: {endpoint}\r\nAccept: application/json\r\n"
        "Connection: close\r\nAuthorization: Bearer s3cret\r\n\r\n".encode()
    ]


@pytest.mark.parametrize(("path", "key"), [("/x\r\nY: 1", None), ("/x", "a\nb"), ("/ü", None)])
async def test_nothing_can_be_smuggled(path: str, key: str | None) -> None:
    async with answering(HEAD + b"\r\n{}") as (endpoint, requests):
        with pytest.raises(ValueError, match="printable ASCII"):
            await get_json(endpoint, path, key=key, timeout_s=PATIENCE_S)
    assert requests == []


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1:80"),
        ("0.0.0.0", "127.0.0.1:80"),
        ("::", "[::1]:80"),
        ("::1", "[::1]:80"),
        ("10.0.0.1", "10.0.0.1:80"),
    ],
)
def test_where_a_server_is_reached(host: str, shown: str) -> None:
    assert str(HostPort(host, 80)) == shown


@given(st.binary(max_size=200))
def test_any_head_is_understood_or_refused(head: bytes) -> None:
    from magid.http.framing import ProtocolError, parse_head

    try:
        status, headers = parse_head(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
    except ProtocolError:
        return
    assert status == 200
    assert not [name for name in headers if name != name.lower() or b" " in name]


@asynccontextmanager
async def running(program: Path, *words: str) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        str(program), *words, stderr=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def healthy(endpoint: HostPort) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await check_health(endpoint) is not Health.OK:  # noqa: ASYNC110  # another program
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("behaviour", ["real", "fine", "no-alias", "any-key", "other-alias"])
async def test_is_ours(
    behaviour: str,
    llama_server: Path,
    chat_model: Path,
    tmp_path: Path,
    free_port: Callable[[], int],
) -> None:
    key, endpoint = secrets.token_urlsafe(32), HostPort("127.0.0.1", free_port())
    (tmp_path / "key").write_text(key)
    real = behaviour == "real"
    program = llama_server if real else fake_llama.install(tmp_path, behaviour)
    words = ["--model", str(chat_model), "--alias", "demo_tiny", "--api-key-file"]
    words += [str(tmp_path / "key"), "--host", endpoint.host, "--port", str(endpoint.port)]
    async with running(program, *words):
        await healthy(endpoint)
        why = await why_foreign(endpoint, key, "demo_tiny")
        assert (why is None) is (behaviour in _OURS), why
        assert await why_foreign(endpoint, key, "another")
        assert await why_foreign(endpoint, "another", "demo_tiny")


_OURS = ("real", "fine", "no-alias")


async def test_a_stranger_gets_no_key_of_ours() -> None:
    """One that accepts everything is found out with a wrong key, before it sees the right one."""
    body = json.dumps({"model_alias": "demo_tiny"}).encode()
    async with answering(HEAD + b"\r\n" + body) as (endpoint, requests):
        assert await why_foreign(endpoint, "s3cret", "demo_tiny")
    assert b"s3cret" not in b"".join(requests)

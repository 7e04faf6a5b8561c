"""llama-server: finding the program, asking what it can do, and talking to one that runs.

The HTTP client is a small one of our own: one request per connection, bounded in every direction. A
full client library would double the daemon's start-up time for the sake of these few requests.
"""

import asyncio
import os
import platform
import re
import secrets
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from magid.errors import BadReply, LlamaServerMissing, ServerUnreachable
from magid.http.limits import (
    MAX_CHUNKS,
    MAX_COLLECTED_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEAD_LINES,
    parsed,
)
from magid.llama import connection
from magid.llama.arguments import child_environment

MAX_PROBE_BYTES = 1024 * 1024  # `--help` is 60 KB in 0.7.0

_USUAL_PLACES = (Path("/usr/local/bin/llama-server"), Path("/usr/bin/llama-server"))

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_HEADER_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")
_OPTION_NAME = re.compile(r"--?[A-Za-z][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class LlamaProgram:
    """An installed llama-server."""

    path: Path
    version: str
    flags: frozenset[str]  # every option that its --help lists, short and long


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one server listens."""

    host: str
    port: int

    @property
    def connect_host(self) -> str:
        """The address to connect to: a server bound to every address is asked over loopback."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)

    def __str__(self) -> str:
        host = self.connect_host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


class Health(StrEnum):
    """What /health said."""

    UNREACHABLE = "unreachable"  # refused, or no answer in time
    LOADING = "loading"  # 503: the model is being read
    OK = "ok"
    ERROR = "error"  # another status, or no HTTP at all


def advice(system: Mapping[str, str]) -> str:
    """What to do to get a llama-server, by the words of os-release(5). Pure.

    Debian has one in `llama.cpp-tools` from release 14 (forky) on; what is not released yet has no
    VERSION_ID.
    """
    number = system.get("VERSION_ID", "")
    if system.get("ID") == "debian" and (not number.isdecimal() or int(number) >= 14):
        return "run `apt install llama.cpp-tools`"
    return (
        "put llama.cpp's llama-server into /usr/local/bin, or set llama_server_path in "
        "/etc/magi/magid.yaml (LLAMA_SERVER_PATH) to where it is"
    )


def _advice() -> str:
    try:
        return advice(platform.freedesktop_os_release())
    except OSError:
        return advice({})


def find_program(configured: str | None, search_path: str) -> Path:
    """The llama-server to use: `configured` if it is set, else the first of the usual places.

    /usr/local/bin, /usr/bin, then the folders of `search_path` (the PATH variable). A configured
    one that cannot be run is an error, never silently another one. Raises LlamaServerMissing.
    """
    if configured:
        program = Path(configured).absolute()
        if not _can_run(program):
            raise LlamaServerMissing(
                f"cannot use {program} as llama-server: it is not a program that can be run; "
                "install one there, or correct llama_server_path in /etc/magi/magid.yaml "
                "(LLAMA_SERVER_PATH)",
                program=str(program),
            )
        return program
    folders = [Path(folder) for folder in search_path.split(os.pathsep) if folder.startswith("/")]
    for program in (*_USUAL_PLACES, *(folder / "llama-server" for folder in folders)):
        if _can_run(program):
            return program
    raise LlamaServerMissing(
        f"cannot find llama-server in /usr/local/bin, /usr/bin or PATH: {_advice()}"
    )


def _can_run(program: Path) -> bool:
    """Not where a folder on the way may not be entered, for which `Path.is_file` raises."""
    try:
        return program.is_file() and os.access(program, os.X_OK)
    except OSError:
        return False


RETRY_S = 10.0


class InstalledProgram:
    """The llama-server of this machine, asked again only when its file changed.

    Call it for the LlamaProgram; callers at the same time share one answer. Raises
    LlamaServerMissing, and then looks again at the next call: it may have been installed since.
    A program that is there and unusable is not run again for RETRY_S, unless its file changes: a
    dashboard asks every second.
    """

    def __init__(self, configured: str | None, search_path: str) -> None:
        self._configured = configured
        self._search_path = search_path
        self._lock = asyncio.Lock()
        self._known: tuple[tuple[str, int, int, int, int], LlamaProgram] | None = None
        self._failed: tuple[tuple[str, int, int, int, int], float, LlamaServerMissing] | None = None

    async def __call__(self) -> LlamaProgram:
        async with self._lock:
            path = find_program(self._configured, self._search_path)
            identity = _identity(path)
            if self._known is None or self._known[0] != identity:
                self._known = (identity, await self._probed(path, identity))
            return self._known[1]

    async def _probed(self, path: Path, identity: tuple[str, int, int, int, int]) -> LlamaProgram:
        failed = self._failed
        if failed and failed[0] == identity and time.monotonic() < failed[1] + RETRY_S:
            raise failed[2]
        try:
            return await probe(path)
        except LlamaServerMissing as error:
            self._failed = (identity, time.monotonic(), error)
            raise


def _identity(path: Path) -> tuple[str, int, int, int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise _unusable(path, str(error)) from error
    return (str(path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


async def probe(program: Path, *, timeout_s: float = 10.0) -> LlamaProgram:
    """Ask a llama-server for its version and options by running it twice.

    10 s: it answers in 50 ms, but a cold disk or a driver that wakes a GPU takes longer. Raises
    LlamaServerMissing if it is not a llama-server or does not answer in time.
    """
    flags = flags_in(await _output_of(program, "--help", timeout_s))
    if not {"--model", "--port"} <= flags:
        raise _unusable(program, "its --help does not list llama-server's options")
    version = version_in(await _output_of(program, "--version", timeout_s))
    return LlamaProgram(program, version, flags)


def flags_in(help_text: str) -> frozenset[str]:
    """Every option that `llama-server --help` lists: they stand at the beginning of a line.

    Not those it lists as removed (`--draft-max` in 0.7.0): it refuses to start with them.
    """
    lines = (line for line in help_text.splitlines() if "has been removed" not in line)
    return frozenset(name for line in lines for name in _leading_options(line))


def _leading_options(line: str) -> Iterator[str]:
    for word in line.replace(",", " ").split() if line.startswith("-") else ():
        if not _OPTION_NAME.fullmatch(word):
            return
        yield word


def version_in(text: str) -> str:
    """The version of `llama-server --version`; "unknown" where it prints none."""
    found = re.search(r"^version: (.{1,200})$", text, re.MULTILINE)
    return found[1].strip() if found else "unknown"


def _unusable(program: Path, why: str) -> LlamaServerMissing:
    return LlamaServerMissing(
        f"cannot use {program} as llama-server: {why}; {_advice()}", program=str(program)
    )


async def _output_of(program: Path, option: str, timeout_s: float) -> str:
    """What the program prints; it is gone, with its process group, when this returns or raises."""
    try:
        process = await asyncio.create_subprocess_exec(
            str(program),
            option,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=child_environment(os.environ),
            start_new_session=True,
        )
    except OSError as error:
        raise _unusable(program, str(error)) from error
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout_s):
            output = await _read_at_most(process.stdout, MAX_PROBE_BYTES)
            await process.wait()
    except TimeoutError:
        why = f"`{option}` did not end within {timeout_s:g} s"
        raise _unusable(program, why) from None
    except _TooLong:
        raise _unusable(program, f"`{option}` prints without end") from None
    finally:
        await _kill_group(process)
    if process.returncode != 0:
        raise _unusable(
            program, f"`{option}` ended with {process.returncode}: {_last_line(output)}"
        )
    return output.decode(errors="replace")


async def _kill_group(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.communicate()  # takes what is left in the pipe: unread, it would stay open


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it printed nothing"


async def check_health(endpoint: Endpoint, *, timeout_s: float = 2.0) -> Health:
    """Ask /health, which needs no key. Never raises."""
    try:
        status, _ = await get_json(endpoint, "/health", key=None, timeout_s=timeout_s)
    except BadReply:
        return Health.ERROR
    except ServerUnreachable:
        return Health.UNREACHABLE
    return {200: Health.OK, 503: Health.LOADING}.get(status, Health.ERROR)


async def is_ours(
    endpoint: Endpoint, key: str, alias: str, *, uid: int | None = None, timeout_s: float = 5.0
) -> bool:
    """Whether the server there holds our key and runs our model. Raises ServerUnreachable."""
    return await why_foreign(endpoint, key, alias, uid=uid, timeout_s=timeout_s) is None


async def why_foreign(
    endpoint: Endpoint, key: str, alias: str, *, uid: int | None = None, timeout_s: float = 5.0
) -> str | None:
    """Why the server there is not the one that was started with this key and alias; None: it is.

    Only our server can tell the right key from a wrong one: it must refuse a random key and accept
    ours, and then show our alias. /props is asked because /health is public in every version and
    /v1/models in those before 2026. Raises ServerUnreachable if it does not answer, or is not of
    the user `uid`.
    """
    wrong = secrets.token_urlsafe(32)
    status, _ = await get_json(endpoint, "/props", key=wrong, uid=uid, timeout_s=timeout_s)
    if status != 401:
        return f"it answers a request with a wrong key with {status} in place of 401"
    status, props = await get_json(endpoint, "/props", key=key, uid=uid, timeout_s=timeout_s)
    if status != 200:
        return f"it answers a request with our key with {status}"
    shown = _model_alias(props)
    if shown is None:
        shown = await _first_model(endpoint, key, uid, timeout_s)
    return None if shown == alias else f"it serves {shown!r} and not {alias!r}"


def _model_alias(props: object) -> str | None:
    alias = props.get("model_alias") if isinstance(props, dict) else None
    return alias if isinstance(alias, str) else None


async def _first_model(
    endpoint: Endpoint, key: str, uid: int | None, timeout_s: float
) -> str | None:
    """The alias as servers show it whose /props has none yet (before mid-2025)."""
    status, models = await get_json(endpoint, "/v1/models", key=key, uid=uid, timeout_s=timeout_s)
    match models:
        case {"data": [{"id": str(shown)}, *_]} if status == 200:
            return shown
        case _:
            return None


async def get_json(
    endpoint: Endpoint,
    path: str,
    *,
    key: str | None,
    uid: int | None = None,
    timeout_s: float,
    body: bytes | None = None,
) -> tuple[int, object]:
    """GET one path on a connection of its own: the status, and the JSON of the body or None.

    With a `body`, which is JSON, it is POSTed. Nothing is sent to a program of another user than
    `uid`; None: that is not known.

    `timeout_s` holds for all of it, `limits` for its size. Raises ServerUnreachable; the part of it
    that is BadReply means that something else than HTTP answers.
    """
    status, answer = await _ask(endpoint, path, key, uid, timeout_s, body)
    try:
        return status, parsed(answer)
    except ValueError:
        return status, None


async def get_metrics(
    endpoint: Endpoint, *, key: str | None, uid: int | None = None, timeout_s: float
) -> bytes:
    """What the server's /metrics says, as it is; limits and errors as of `get_json`.

    It does not wake a sleeping model (0.7.0). Raises BadReply too where it has none.
    """
    status, text = await _ask(endpoint, "/metrics", key, uid, timeout_s, None)
    if status == 501:
        raise BadReply(
            f"cannot get metrics of the server at {endpoint}: it runs without --metrics; an older "
            "llama-server has no such option, and a restart gives it to one that was updated"
        )
    if status != 200:
        raise BadReply(f"cannot get metrics of the server at {endpoint}: it answers with {status}")
    return text


async def _ask(
    endpoint: Endpoint,
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
def _as_unreachable(endpoint: Endpoint) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise ServerUnreachable(
            f"cannot reach the server at {endpoint}: no answer in time"
        ) from None
    except (_TooLong, asyncio.LimitOverrunError):
        raise BadReply(f"cannot read the answer of {endpoint}: it is too long") from None
    except asyncio.IncompleteReadError:
        raise BadReply(f"cannot read the answer of {endpoint}: it ends too early") from None
    except Garbled as error:
        raise BadReply(f"cannot read the answer of {endpoint}: {error}") from None
    except OSError as error:
        why = error.strerror or str(error)
        raise ServerUnreachable(f"cannot reach {endpoint}: {why}") from error


class _TooLong(Exception):
    """More bytes than the limit."""


class Garbled(Exception):
    """Not HTTP/1.1; the text says what."""


def _request(endpoint: Endpoint, path: str, key: str | None, body: bytes | None) -> bytes:
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


async def _get(endpoint: Endpoint, uid: int | None, request: bytes) -> tuple[int, bytes]:
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


def parse_head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    """Status and headers (names in lower case) of an answer; strict, as RFC 9112 is.

    No folded lines, no space before a colon, no two lengths. Raises Garbled.
    """
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n", MAX_HEAD_LINES + 1)
    if len(lines) > MAX_HEAD_LINES:
        raise Garbled("its head has too many lines")
    status_line = _STATUS_LINE.fullmatch(first)
    if not status_line:
        raise Garbled("it is not HTTP")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        header = _HEADER_LINE.fullmatch(line)
        if not header:
            raise Garbled("a header is malformed")
        name, value = header[1].lower(), header[2].strip()
        if name in headers and name in _ONCE:
            raise Garbled(f"there are two {name.decode()} headers")
        headers[name] = value
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Garbled("it is compressed, which nobody asked for")
    return int(status_line[1]), headers


_ONCE = frozenset((b"content-length", b"transfer-encoding", b"content-type", b"content-encoding"))


async def _read_body(
    reader: asyncio.StreamReader, status: int, headers: dict[bytes, bytes]
) -> bytes:
    length, coding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
    if status < 200:
        raise Garbled(f"its status is {status}")
    if status in (204, 304):
        return b""
    if coding is not None:
        if coding.lower() != b"chunked" or length is not None:
            raise Garbled("its transfer coding is not plainly chunked")
        return await _read_chunks(reader)
    if length is None:
        return await _read_at_most(reader, MAX_COLLECTED_BYTES)
    if not re.fullmatch(rb"[0-9]{1,12}", length):
        raise Garbled("its length is not a number")
    if int(length) > MAX_COLLECTED_BYTES:
        raise _TooLong
    return await reader.readexactly(int(length))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    chunks = 0  # reading them does not wait while there are some: so many are one turn of the loop
    while size := await _chunk_size(reader):
        chunks += 1
        if len(body) + size > MAX_COLLECTED_BYTES or chunks > MAX_CHUNKS:
            raise _TooLong
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise Garbled("a chunk does not end where it should")
    return bytes(body)  # trailers mean nothing to us, and the connection ends here


async def _chunk_size(reader: asyncio.StreamReader) -> int:
    line = _CHUNK_SIZE.fullmatch(await reader.readuntil(b"\r\n"))
    if not line:
        raise Garbled("a chunk's size is malformed")
    return int(line[1], 16)


async def _read_at_most(reader: asyncio.StreamReader, limit: int) -> bytes:
    """All until the end of the stream; raises _TooLong."""
    data = bytearray()
    while part := await reader.read(65_536):
        data += part
        if len(data) > limit:
            raise _TooLong
    return bytes(data)

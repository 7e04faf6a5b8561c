"""A llama-server that was taken over: it speaks HTTP on a real socket, and misbehaves by name.

It loads and answers as a good one does, until a request says `misbehave:NAME` anywhere: in its
prompt, or, where a request has no body, in X-Conversation-Id. What magid asks by itself misbehaves
by a file, whose lines are PATH NAME. `install` writes a program that is this for models whose id
begins with `hostile`, and the real llama-server for all others.
"""

import json
import re
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise, repeat
from pathlib import Path


class Ends(StrEnum):
    """How an answer ends for the client of magid."""

    FAILED = "failed"  # one error of magid's, or what was begun is cut or ends with an error event
    WHOLE = "whole"  # an answer with its end, of whose head only harmless lines are left
    RELAYED = "relayed"  # goes on as long as the client takes it


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """`answer` makes what is sent, piece by piece; the connection is closed behind it."""

    ends: Ends
    answer: Callable[[], Iterator[bytes]]
    path: str = "/v1/chat/completions"
    is_stream: bool = False  # whether its client asks for events


HOSTILE: dict[str, Misbehaviour] = {}
HANG, KEEP = b"<hang>", b"<keep>"  # pieces: wait until the other side closes; keep the connection

STATUS = b"HTTP/1.1 200 OK\r\n"
JSON = STATUS + b"Content-Type: application/json\r\n"
CHUNKED = JSON + b"Transfer-Encoding: chunked\r\n\r\n"
STREAM = STATUS + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
BODY = b'{"from":"hostile"}'
SCRIPT = b"<!doctype html><script>document.title='taken'</script>"


def whole(body: bytes = BODY, *lines: bytes, status: bytes = b"200 OK") -> bytes:
    """An answer with its length; a content type of its own if `lines` has none."""
    named = b"".join(line + b"\r\n" for line in lines)
    if not any(line.lower().startswith(b"content-type") for line in lines):
        named += b"Content-Type: application/json\r\n"
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, named, len(body), body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def once(*pieces: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: iter(pieces)


def endless(start: bytes, piece: bytes) -> Callable[[], Iterator[bytes]]:
    """`piece` for ever, 64 KiB of it at a time."""
    block = piece * max(1, 65_536 // len(piece))

    def answer() -> Iterator[bytes]:
        yield start
        yield from repeat(block)

    return answer


def slowly(data: bytes, pause_s: float) -> Callable[[], Iterator[bytes]]:
    def answer() -> Iterator[bytes]:
        for byte in data:
            yield bytes([byte])
            time.sleep(pause_s)
        yield HANG

    return answer


def failed(name: str, answer: Callable[[], Iterator[bytes]], path: str = "") -> None:
    HOSTILE[name] = Misbehaviour(Ends.FAILED, answer, path or "/v1/chat/completions")


def fine(name: str, answer: Callable[[], Iterator[bytes]], path: str = "") -> None:
    HOSTILE[name] = Misbehaviour(Ends.WHOLE, answer, path or "/v1/chat/completions")


def relayed(name: str, answer: Callable[[], Iterator[bytes]]) -> None:
    HOSTILE[name] = Misbehaviour(Ends.RELAYED, answer)


def heads() -> None:
    failed("endless head", endless(STATUS + b"X: ", b"a"))
    failed("endless header lines", endless(STATUS, b"a: b\r\n"))
    failed("thousands of header lines", once(STATUS + b"a: b\r\n" * 5000 + b"\r\n", HANG))
    failed("endless status line", endless(b"HTTP/1.1 200 ", b"OK "))
    failed("no status line", once(b"<html>hello", HANG))
    failed("HTTP/2", once(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), HANG))
    failed("another protocol", once(b"SSH-2.0-OpenSSH_9.2\r\n", HANG))
    failed("NUL in a header", once(JSON + b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}", HANG))
    failed("CR in a header", once(JSON + b"X: a\rSet-Cookie: b=c\r\nContent-Length: 2\r\n\r\n{}"))
    failed("LF for CRLF", once(b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}", HANG))
    failed("folded header", once(STATUS + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}", HANG))
    failed("space before colon", once(STATUS + b"Content-Length : 2\r\n\r\n{}", HANG))
    failed("slow head", slowly(whole(), 0.5))
    failed("status 999", once(whole(status=b"999 Odd"), HANG))
    failed("redirect", once(whole(BODY, b"Location: http://evil.example/", status=b"302 Found")))


def interim() -> None:
    failed("protocol switched", once(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", HANG))
    for status in (b"100 Continue", b"102 Processing", b"103 Early Hints"):
        name = f"endless interim {status[:3].decode()}"
        failed(name, endless(b"", b"HTTP/1.1 %b\r\n\r\n" % status))
    many = b"HTTP/1.1 100 Continue\r\n\r\n" * 2500
    failed("2500 interim answers in one segment", once(many + whole(), HANG))
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </evil.js>; rel=preload\r\n\r\n"
    fine("a few interim answers", once(hint * 3 + whole(), KEEP))
    body = b"HTTP/1.1 100 -\r\nContent-Length: 5\r\n\r\nhello"
    failed("interim with a body", once(body + whole()))


def lengths() -> None:
    coding, length = b"Transfer-Encoding: chunked\r\n\r\n", b"Content-Length: 5\r\n\r\n"
    failed("204 with chunks", endless(b"HTTP/1.1 204 -\r\n" + coding, chunk(BODY)))
    failed("204 with a body", once(b"HTTP/1.1 204 -\r\n" + length + b"hello", HANG))
    failed("304 with chunks", endless(b"HTTP/1.1 304 -\r\n" + coding, chunk(BODY)))
    failed("304 with a body", once(b"HTTP/1.1 304 -\r\n" + length + b"hello", HANG))
    fine("bare 204", once(b"HTTP/1.1 204 No Content\r\n\r\n", KEEP))
    failed("length too short", once(JSON + length + BODY, HANG))
    failed("length too long", once(JSON + b"Content-Length: 500\r\n\r\n" + BODY))
    failed("two lengths", once(JSON + b"Content-Length: 2\r\n" + length + b"hello", HANG))
    failed("the same length twice", once(JSON + b"Content-Length: 5\r\n" + length + b"hello", HANG))
    failed("negative length", once(JSON + b"Content-Length: -1\r\n\r\n", HANG))
    failed("length out of bounds", once(JSON + b"Content-Length: %b\r\n\r\n" % (b"9" * 400), HANG))
    failed("length in hex", once(JSON + b"Content-Length: 0x5\r\n\r\nhello", HANG))
    failed("length and chunks", once(JSON + b"Content-Length: 5\r\n" + coding + chunk(BODY), HANG))
    failed("two codings", once(JSON + b"Transfer-Encoding: gzip, chunked\r\n\r\n", HANG))
    failed("coding twice", once(JSON + b"Transfer-Encoding: chunked\r\n" + coding, HANG))


def chunks() -> None:
    relayed("endless chunks", endless(CHUNKED, chunk(b"x" * 8192)))
    relayed("endless chunks of a byte", endless(CHUNKED, chunk(b"x")))
    relayed("endless chunk extensions", endless(CHUNKED, b"1;" + b"a" * 200 + b"\r\nx\r\n"))
    failed("endless size of a chunk", endless(CHUNKED, b"0"))
    failed("endless extension of a chunk", endless(CHUNKED + b"1;", b"a"))
    failed("endless trailers", endless(CHUNKED + b"0\r\n", b"X: y\r\n"))
    failed("a chunk of too many bytes", once(CHUNKED + b"F" * 16 + b"\r\n", HANG))
    failed("negative chunk", once(CHUNKED + b"-1\r\nx\r\n", HANG))
    failed("a chunk without its end", once(CHUNKED + b"1\r\nxyz\r\n", HANG))
    failed("closed in mid-chunk", once(CHUNKED + b"100\r\nabc"))
    failed("closed between chunks", once(CHUNKED + chunk(BODY)))
    failed("bytes behind the end", once(CHUNKED + chunk(BODY) + b"0\r\n\r\n" + whole(), HANG))


def events() -> None:
    relayed("endless events", endless(STREAM, chunk(EVENT)))
    relayed("endless event", endless(STREAM + chunk(b"data: "), chunk(b"x" * 65_000)))
    failed("endless empty events", endless(STREAM, chunk(b"\n\n" * 4000)))
    failed("endless comments", endless(STREAM, chunk(b": x\n\n")))
    failed("stream closed", once(STREAM + chunk(EVENT)))
    failed("stream closed in an event", once(STREAM + chunk(EVENT[:9])))
    fine("slow bytes", slowly(STREAM + chunk(EVENT) + b"0\r\n\r\n", 0.001))


def content() -> None:
    for kind in (
        "text/html", "text/html; charset=utf-7", "image/svg+xml", "text/javascript",
        "application/xhtml+xml", "application/xml", "multipart/x-mixed-replace; boundary=x",
        "application/wasm", "text/css", "application/octet-stream", "application/json, text/html",
    ):  # fmt: skip
        failed(f"type {kind}", once(whole(SCRIPT, b"Content-Type: " + kind.encode()), KEEP))
    fine("no type", once(STATUS + b"Content-Length: %d\r\n\r\n" % len(SCRIPT) + SCRIPT, KEEP))
    for kind in ("application/json", "text/plain", "text/event-stream"):
        typed = whole(SCRIPT, b"Content-Type: " + kind.encode())
        fine(f"a page as {kind}", once(typed, KEEP))
    two = (b"Content-Type: application/json", b"Content-Type: text/html")
    failed("two types", once(whole(SCRIPT, *two), KEEP))
    odd = b'Content-Type: application/json; x="text/html"'
    fine("a parameter in the type", once(whole(BODY, odd), KEEP))
    failed("compressed", once(whole(b"\x1f\x8b" + bytes(40), b"Content-Encoding: gzip"), KEEP))
    fine("headers that act", once(whole(BODY, *ACTING), KEEP))


ACTING = (
    b"Set-Cookie: magid=taken; Path=/", b"Location: http://evil.example/", b"Refresh: 0; url=/",
    b"Access-Control-Allow-Origin: *", b"Access-Control-Allow-Credentials: true",
    b"Clear-Site-Data: *", b"Link: </evil.js>; rel=preload", b"Service-Worker-Allowed: /",
    b"Content-Security-Policy: default-src *", b"X-Content-Type-Options: none", b"Alt-Svc: x=1",
    b"WWW-Authenticate: Basic", b"Content-Disposition: attachment", b"SourceMap: /evil.map",
    b"Strict-Transport-Security: max-age=1", b"X-Magi-Route: forged", b"X-Request-Id: forged",
    b"Report-To: {}", b"Content-Location: /evil", b"Trailer: Set-Cookie", b"Upgrade: h2c",
)  # fmt: skip


def errors() -> None:
    start = b"HTTP/1.1 500 -\r\nContent-Type: application/json\r\n"
    coding = b"Transfer-Encoding: chunked\r\n\r\n"
    for path in ("/v1/messages", "/v1/chat/completions"):
        at = path.rpartition("/")[2]
        failed(f"500 without end to {at}", endless(start + coding, chunk(b"x" * 8192)), path)
        length = b"Content-Length: 999999999999\r\n\r\n"
        failed(f"500 of 1 TB to {at}", endless(start + length, b"x"), path)
        failed(f"500 until the end to {at}", endless(start + b"\r\n", b"x"), path)
    failed("500 in chunks of a byte", endless(start + coding, chunk(b"x")), "/v1/messages")
    failed("400 without end", endless(start.replace(b"500", b"400") + coding, chunk(b"x" * 99)))
    deep, wide = b"[" * 200_000, b"[" + b"[]," * 80_000 + b"[]]"
    for name, body in (("deep", deep), ("wide", wide)):
        fine(f"400 with {name} JSON", once(whole(body, status=b"400 -"), KEEP), "/v1/messages")
    failed("500 as a page", once(whole(SCRIPT, b"Content-Type: text/html", status=b"500 -"), KEEP))


def moments() -> None:
    failed("closed at once", once())
    failed("two answers at once", once(whole() + whole(b'{"from":"another"}'), HANG))
    fine("a second answer later", once(whole(), b"", whole(b'{"from":"another"}'), HANG))
    fine("absurd figures", once(whole(FIGURES), KEEP))
    fine("figures without end", once(whole(b'{"usage":{' + b'"prompt_tokens":9,' * 12_000), KEEP))


FIGURES = (
    b'{"usage":{"prompt_tokens":999999999,"completion_tokens":999999999,"total_tokens":1e999},'
    b'"timings":{"cache_n":999999999,"prompt_n":999999999,"prompt_ms":1e-99,"predicted_n":'
    b'999999999,"predicted_ms":1e-99,"predicted_per_second":Infinity}}'
)

for table in (heads, interim, lengths, chunks, content, errors, moments):
    table()
before = set(HOSTILE)
events()
for name in HOSTILE.keys() - before:
    HOSTILE[name] = replace(HOSTILE[name], is_stream=True)

# What magid itself asks for, answered in these ways too: /props, /slots, /metrics, /health.
VALUES = {
    "deep JSON": b'{"a":' * 50_000,
    "wide JSON": b"[" + b"[]," * 80_000 + b"[]]",
    "a long number": b'{"total_slots":' + b"9" * 100_000 + b"}",
    "absurd numbers": b'{"total_slots":%b,"default_generation_settings":{"n_ctx":%b}}'
    % (b"9" * 4000, b"9" * 4000),
    "other types": b'{"total_slots":[],"default_generation_settings":7,"modalities":"x"}',
    "no object": b"[1,2,3]",
    "not UTF-8": b"\xff\xfe" * 1000,
}
for name, value in VALUES.items():
    fine(f"answers {name}", once(whole(value), KEEP))


# -- the server ------------------------------------------------------------------------------

_ASKED = re.compile(rb"misbehave:([A-Za-z0-9 /+.,;:=_-]+)")
GOOD = b'{"choices":[{"message":{"role":"assistant","content":"good"}}],"from":"hostile"}'


class Connection:
    """One client of the server, in a thread of its own."""

    def __init__(self, peer: socket.socket, alias: str, key: str, orders: Path) -> None:
        self._peer, self._alias, self._key, self._orders = peer, alias, key, orders

    def serve(self) -> None:
        with self._peer, suppress(OSError):
            self._peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._order("ACCEPT"):
                self._peer.sendall(whole(b'{"from":"another"}'))
            while request := self._request():
                if not self._send(self._answer(request)):
                    return

    def _request(self) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += (more := self._peer.recv(65_536))
            if not more:
                return b""
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        while length and len(body) < int(length[1]):
            body += (more := self._peer.recv(65_536))
            if not more:
                return b""
        return head + b"\r\n\r\n" + body

    def _order(self, path: str) -> str:
        with suppress(FileNotFoundError):
            for line in self._orders.read_text().splitlines():
                place, _, name = line.partition(" ")
                if place == path:
                    return name
        return ""

    def _answer(self, request: bytes) -> Iterator[bytes]:
        path = request.split(b" ", 2)[1].partition(b"?")[0].decode()
        asked = _ASKED.search(request)
        name = asked[1].decode() if asked else self._order(path)
        if name in PRINTED:
            print_out(PRINTED[name])
        elif name:
            return HOSTILE[name].answer()
        return iter((self._good(path, request), KEEP))

    def _good(self, path: str, request: bytes) -> bytes:
        if path != "/health" and f"Bearer {self._key}".encode() not in request:
            return whole(b'{"error":{"code":401}}', status=b"401 -")
        if path == "/props":
            return whole(json.dumps({"model_alias": self._alias, "total_slots": 32}).encode())
        return whole(b'{"status":"ok"}' if path == "/health" else GOOD)

    def _send(self, pieces: Iterator[bytes]) -> bool:
        """Whether the connection is kept."""
        for piece in pieces:
            if piece is HANG:
                while self._peer.recv(65_536):
                    pass
            elif piece is KEEP:
                return True
            elif not piece:
                time.sleep(0.05)  # the next one is for a segment of its own
            else:
                self._peer.sendall(piece)
        return False


# What it prints before it answers well.
PRINTED = {
    "prints a line without end": b"x" * 2**25,
    "prints bytes that are no text": b"\xf0\x9f\x98\x80\xff" * 2**22,
    "prints empty lines": b"\n" * 2**17,
    "prints long lines": (b"\xf0\x9f\x98\x80" * 2000 + b"\n") * 3000,
}


def print_out(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def main(words: list[str]) -> None:
    orders, arguments = Path(words[0]), words[1:]
    options = dict(pairwise(arguments))
    key = Path(options["--api-key-file"]).read_text().strip()
    with socket.create_server((options["--host"], int(options["--port"])), backlog=128) as listener:
        while True:
            peer, _ = listener.accept()
            connection = Connection(peer, options["--alias"], key, orders)
            threading.Thread(target=connection.serve, daemon=True).start()


def install(folder: Path, real: Path, orders: Path) -> Path:
    """A program that is the hostile server for models named so, and else the real one."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "llama-server"
    fake = shlex.join([sys.executable, "-S", str(Path(__file__).resolve()), str(orders)])
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *"--alias hostile"*) exec {fake} "$@";; esac\n'
        f'exec {shlex.quote(str(real))} "$@"\n'
    )
    program.chmod(0o755)
    return program


if __name__ == "__main__":
    main(sys.argv[1:])

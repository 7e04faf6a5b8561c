"""Bodies made to hold the event loop or to fill memory, thrown at every route of a real daemon.

Beside them a client asks for /livez again and again, and one for answers of a model: both get
them. `python -m tests.soak.bodies SCALE SEED FOLDER`.
"""

import json
import random
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from magid.api.routes import ROUTES
from magid.gateway.routing.endpoints import ENDPOINTS
from tests.soak.crowds import pid_of
from tests.soak.figures import Figures
from tests.soak.parts import daemon
from tests.soak.pulse import waited_s
from tests.support import fleets
from tests.support.deadlines import DEADLINE_S
from tests.support.rest import Parts, until_closed
from tests.support.running import Running

MIB = 2**20
LIMIT = 32 * MIB  # gateway.max_body_bytes, as it is by itself
MOST_PAUSE_S = 0.05
SLACK = 16 * MIB  # of memory, beside three times the body: small bodies cost some too

Make = Callable[[int, random.Random], bytes]


def filled(head: bytes, one: bytes, tail: bytes) -> Make:
    return lambda size, _dice: (
        head + one * (max(0, size - len(head) - len(tail)) // len(one)) + tail
    )


def chat(content: bytes) -> tuple[bytes, bytes]:
    head, _, tail = content.partition(b"*")
    start = b'{"model":"auto","messages":[{"role":"user","content":'
    return start + head, tail + b"}]}"


def _text(one: bytes) -> Make:
    head, tail = chat(b'"*"')
    return filled(head, one, tail)


def _keys(size: int, _dice: random.Random) -> bytes:
    return b'{"a":1' + b"".join(b',"%d":1' % n for n in range(size // 12)) + b"}"


def _random(size: int, dice: random.Random) -> bytes:
    """Pieces of JSON in any order: what no table thought of."""
    pieces = [
        b"[]",
        b"{}",
        b"[",
        b"{",
        b'""',
        b'"a":',
        b"1,",
        b"-1e9",
        b" " * 50,
        b'"\\u00e9',
        b'"',
    ]
    pieces += [b'"' + b"x" * 2000 + b'"', b'"' + "é😀".encode() * 300 + b'"', b"null", b"9" * 50]
    chosen = dice.choices(pieces, k=200)
    block = b",".join(chosen) if dice.random() < 0.5 else b"".join(chosen)
    return b'{"messages":[' + block * (size // len(block)) + b"]}"


_PICTURE = b'[{"type":"image_url","image_url":{"url":"data:image/png;base64,*"}}]'
BODIES: dict[str, Make] = {
    "lists": filled(b'{"x":[', b"[],", b"[]]}"),
    "messages of 1": filled(b'{"model":"auto","messages":[', b"1,", b"1]}"),
    "empty messages": filled(b'{"messages":[', b'{"content":""},', b"{}]}"),
    "parts": filled(chat(b"[*{}]")[0], b'{"type":"text"},', chat(b"[*{}]")[1]),
    "token ids": filled(b'{"input":[', b"15,", b"1]}"),
    "keys": _keys,
    "one key": filled(b"{", b'"model":"m",', b'"a":1}'),
    "empty strings": filled(b'{"prompt":[', b'"",', b"1]}"),
    "short strings": filled(b'{"input":[', b'"' + b"x" * 500 + b'",', b"1]}"),
    "strings of 1 KiB": filled(b'{"input":[', b'"' + b"x" * 1100 + b'",', b"1]}"),
    "escapes": _text(b"\\u0000"),
    "quotes": _text(b'\\"'),
    "wide": _text(b"x" * 1000 + "😀".encode()),
    "words": _text(b"prove the theorem; why? "),
    "fences": _text(b"```\\n"),
    "base64": filled(chat(_PICTURE)[0], b"QUJDRA==", chat(_PICTURE)[1]),
    "bad UTF-8 at the end": filled(chat(b'"*"')[0], b"x", b"\xff" + chat(b'"*"')[1]),
    "no end": filled(b'{"a":"', b"x", b""),
    "no end of quotes": filled(b'{"a":"', b'\\"', b""),
    "rows too short to cut": filled(b'{"x":[', b" " * 2040 + b"[],", b"[]]}"),
    "depth": filled(b"", b'{"a":[', b""),
    "one number": filled(b'{"a":', b"9", b"}"),
    "numbers": filled(b'{"a":[', b"9" * 4000 + b",", b"1]}"),
    "spaces": filled(b'{"a":', b" ", b"1}"),
    "tools": filled(b'{"tools":[', b'{"function":{"name":"f","description":null}},', b"{}]}"),
    "random": _random,
}
MOST_CRUMBS = 4 * MIB  # of them fewer are ever read
CRUMBS = {"chunks of 1 byte": 1, "chunks of 2 bytes": 2, "chunks of 100 bytes": 100}


# -- sending ---------------------------------------------------------------------------------------


def head_of(method: str, path: str, framing: bytes) -> bytes:
    start = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode()
    return start + b"Content-Type: application/json\r\n" + framing + b"\r\n"


def crumbs(body: bytes, size: int) -> bytes:
    parts = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def request(method: str, path: str, body: bytes, chunk: int = 0) -> bytes:
    if chunk:
        return head_of(method, path, b"Transfer-Encoding: chunked\r\n") + crumbs(body, chunk)
    return head_of(method, path, b"Content-Length: %d\r\n" % len(body)) + body


def post(port: int, sent: bytes) -> int:
    """The status of the answer; 0 if the connection ended without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        with suppress(ConnectionError):  # answered before it was read
            connection.sendall(sent)
        found = re.match(rb"HTTP/1.1 (\d{3})", until_closed(connection))
    return int(found[1]) if found else 0


# -- watching --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Watch:
    """Asks for /livez all the time. `longest_s` is without what anybody waited for a processor."""

    port: int
    pid: int
    longest_s: float = 0.0
    answers: int = 0
    failures: list[str] = field(default_factory=list)
    _is_over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        ask = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
        own = threading.get_native_id()
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S) as connection:
            while not self._is_over.is_set():
                before = waited_s(self.pid, self.pid) + waited_s(_SELF, own)
                began = time.perf_counter()
                connection.sendall(ask)
                answer = connection.recv(65536)
                took = time.perf_counter() - began
                after = waited_s(self.pid, self.pid) + waited_s(_SELF, own)
                self.longest_s = max(self.longest_s, took - (after - before))
                self.answers += 1
                if b" 200 OK" not in answer:
                    self.failures.append(repr(answer[:100]))
                    return

    def end(self) -> None:
        self._is_over.set()


_SELF = int(Path("/proc/self").readlink().name)


@contextmanager
def watching(magid: Running) -> Iterator[Watch]:
    watch = Watch(magid.port, pid_of(magid))
    thread = threading.Thread(target=watch.run)
    thread.start()
    try:
        yield watch
    finally:
        watch.end()
        thread.join()


def memory(magid: Running, *, peak: bool = False) -> int:
    """Bytes held now, or the most since `reset_peak`."""
    status = Path(f"/proc/{pid_of(magid)}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)" if peak else r"VmRSS:\s+(\d+)", status)
    assert found
    return int(found[1]) * 1024


def reset_peak(magid: Running) -> None:
    Path(f"/proc/{pid_of(magid)}/clear_refs").write_text("5")  # proc(5)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one body on one route."""

    status: int
    pause_s: float
    grown: int  # bytes of memory, at most
    sent: int


def cost(magid: Running, method: str, path: str, body: bytes, chunk: int = 0) -> Cost:
    sent = request(method, path, body, chunk)
    reset_peak(magid)
    before = memory(magid)
    with watching(magid) as watch:
        status = post(magid.port, sent)
    assert not watch.failures, watch.failures
    return Cost(status, watch.longest_s, memory(magid, peak=True) - before, len(body))


# -- all together ----------------------------------------------------------------------------------


def targets() -> Iterator[tuple[str, str, int]]:
    """Every operation that takes a body, and how large one is thrown at it."""
    for endpoint in ENDPOINTS:
        if endpoint.method == "POST":  # to count the tokens of 30 MiB takes a server minutes
            counts = endpoint.path.endswith("tokens") or "tokenize" in endpoint.path
            yield endpoint.method, endpoint.path, MIB if counts else LIMIT
    for route in ROUTES:
        if route.method != "GET":
            yield route.method, re.sub(r"{\w+}", "nobody", route.path), MIB
    yield "POST", "/v1/nowhere", LIMIT
    yield "GET", "/v1/models", LIMIT


def throw(magid: Running, scale: float, dice: random.Random, figures: Figures) -> None:
    statuses: Counter[int] = Counter()
    worst, most = (0.0, ""), (0.0, "")
    for method, path, limit in targets():
        chosen = dict.fromkeys(BODIES, 0) | CRUMBS
        count = max(1, round(len(chosen) * min(1.0, scale)))
        for name in dice.sample(list(chosen), count):
            limit = min(limit, MOST_CRUMBS) if chosen[name] else limit
            size = int(min(limit - 1, max(100_000, limit * scale * dice.uniform(0.5, 1))))
            body = BODIES.get(name, BODIES["base64"])(size, dice)
            seen = cost(magid, method, path, body, chosen[name])
            where = f"{name}, {seen.sent} bytes to {method} {path}: {seen.status}"
            figures.rounds += 1
            statuses[seen.status] += 1
            worst = max(worst, (seen.pause_s, where))
            most = max(most, (seen.grown / 2**20, where))
            figures.check(seen.grown <= 3 * seen.sent + SLACK, f"{seen.grown} bytes: {where}")
            figures.check(seen.status != 0, where)  # 500: some of llama-server's own
    figures.more["statuses"] = dict(sorted(statuses.items()))
    figures.more["longest pause ms"] = f"{worst[0] * 1000:.1f} ({worst[1]})"
    figures.more["most memory MiB"] = f"{most[0]:.0f} ({most[1]})"


def neighbour(magid: Running, over: threading.Event, outcomes: Counter[int]) -> None:
    """Asks as a client does, and waits for each answer."""
    with httpx.Client(base_url=magid.url, timeout=DEADLINE_S, trust_env=False) as client:
        while not over.is_set():
            answer = client.post("/v1/chat/completions", json=fleets.chat(fleets.SMALL))
            outcomes[answer.status_code] += 1


def run(scale: float, seed: int, folder: Path, given: Parts | None = None) -> Figures:
    figures = Figures("bodies", seed)
    with daemon(folder / "magid", fleets.write_small, given) as magid:
        over, outcomes = threading.Event(), Counter[int]()
        thread = threading.Thread(target=neighbour, args=(magid, over, outcomes))
        thread.start()
        try:
            throw(magid, scale, random.Random(seed), figures)
        finally:
            over.set()
            thread.join()
        figures.check(set(outcomes) == {200}, f"a neighbour was answered {dict(outcomes)}")
        figures.more["answers to a neighbour"] = outcomes[200]
        state = magid.ask("GET", f"/api/models/{fleets.SMALL}")
        figures.check(bool(json.dumps(state)), "the model is unknown")
        figures.check("Traceback" not in magid.log.read_text(), "a traceback in the log")
    return figures


if __name__ == "__main__":
    done = run(float(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    print(done.line())
    sys.exit(bool(done.failures))

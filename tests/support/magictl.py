"""magictl as a process of its own, and a stranger that answers it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

from tests.support.deadlines import DEADLINE_S

MAGICTL = str(Path(sys.executable).with_name("magictl"))
HOSTILE = "\x1b[2J\u202e\x9b31m"  # clears a terminal, turns text round, colours it
Done = subprocess.CompletedProcess[str]


def environment(url: str | None, **more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **({"MAGI_URL": url} if url else {}), **more}


def magictl(*words: str, url: str | None = None, typed: str = "", **more: str) -> Done:
    return subprocess.run(
        [MAGICTL, *words],
        env=environment(url, **more),
        input=typed,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=DEADLINE_S,
        check=False,
    )


Type = Callable[..., Done]


class Stranger(BaseHTTPRequestHandler):
    """Something else on the port."""

    answer = b""
    asked = Event()

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.wfile.write(self.answer)
        self.asked.set()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def strange(answer: bytes, asked: Event | None = None) -> Iterator[str]:
    """The URL of a server that answers so, whatever it is asked."""
    handler = type("Handler", (Stranger,), {"answer": answer, "asked": asked or Event()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"

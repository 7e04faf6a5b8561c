"""A real browser, Debian's Chromium, and a site for its pages."""

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

from tests.support.deadlines import DEADLINE_S

BROWSERS = ("chromium-headless-shell", "chromium")  # Debian's


class Site:
    """Serves one page at every name and path, and `script` at /page.js; takes what pages post."""

    def __init__(self, page: bytes) -> None:
        self.page, self.script = page, b""
        self.found: Queue[dict[str, Any]] = Queue()
        found, site = self.found, self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_script = self.path == "/page.js"
                kind = "text/javascript" if is_script else "text/html; charset=utf-8"
                self.answer(site.script if is_script else site.page, kind)

            def do_POST(self) -> None:
                found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.answer(b"", "text/plain")

            def answer(self, body: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Not among the test's output."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def command(folder: Path) -> list[str]:
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    assert program, "no Chromium: packaging/test-tools installs it"
    return [
        program, "--headless", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--no-proxy-server", f"--user-data-dir={folder / 'user'}",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
    ]  # fmt: skip


@contextmanager
def browser(url: str, folder: Path, places: Mapping[str, str]) -> Iterator[None]:
    """Chromium with this page open. It and all its processes end behind the block.

    `places` says at which addresses it finds names.
    """
    names = ",".join(f"MAP {name} {address}" for name, address in places.items())
    words = [
        *command(folder), f"--host-resolver-rules={names}",
        "--remote-debugging-port=0",  # without it, it prints the page and ends
        url,
    ]  # fmt: skip
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE_S)

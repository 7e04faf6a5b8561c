"""What the REST API costs beside a bare handler of the same server: `python -m` this module.

The registry of 1,000 models is asked for over one connection, of the daemon and, in turn, of a bare
Sanic process that answers the same bytes; ratios are medians over rounds side by side. Then the
daemon reads 300 headers of about 7 MB that it has never seen, while a client asks on.
"""

import multiprocessing
import platform
import re
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, sleep
from typing import Any

import uvloop
from sanic import HTTPResponse, Request, Sanic

from tests.bench.bench_discovery import BIG_HEADERS, write_big
from tests.bench.bench_gguf import cpu
from tests.support import ggufs
from tests.support.running import Running

MODELS = 1000
ROUNDS = 9
REQUESTS = 200
P99_TARGET_MS = 20.0


class Client:
    """One kept connection; asks and takes the answer, and does nothing with it."""

    def __init__(self, port: int, path: str, *headers: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]
        self._request = "\r\n".join(lines).encode()
        self.head = b""

    def ask(self) -> int:
        """The bytes of the body."""
        self._socket.sendall(self._request)
        data = self._socket.recv(65536)
        while b"\r\n\r\n" not in data:
            data += self._socket.recv(65536)
        self.head, _, body = data.partition(b"\r\n\r\n")
        found = re.search(rb"(?i)content-length: (\d+)", self.head)
        size = int(found[1]) if found else 0
        left = size - len(body)
        while left:
            left -= len(self._socket.recv(min(left, 1 << 20)))
        return size

    def close(self) -> None:
        self._socket.close()


def bare(taken: socket.socket, body: bytes) -> None:
    """A process that answers `body`, and 304 to whoever sends If-None-Match."""

    async def serve() -> None:
        app: Sanic[Any, Any] = Sanic("bare", configure_logging=False)
        app.config.update(ACCESS_LOG=False, MOTD=False)

        async def answer(request: Request) -> HTTPResponse:
            if "if-none-match" in request.headers:
                return HTTPResponse(status=304)
            return HTTPResponse(body, 200, content_type="application/json")

        app.add_route(answer, "/api/models/registry")
        server = await app.create_server(sock=taken, return_asyncio_server=True)
        assert server is not None
        await server.startup()  # type: ignore[no-untyped-call]  # Sanic's
        await server.serve_forever()  # type: ignore[no-untyped-call]  # Sanic's

    uvloop.run(serve())


def latencies(client: Client) -> list[float]:
    """Seconds of each of REQUESTS answers."""
    took = []
    for _ in range(REQUESTS):
        start = perf_counter()
        client.ask()
        took.append(perf_counter() - start)
    return took


def compare(label: str, base: Client, ours: Client) -> None:
    rounds = []
    for number in range(ROUNDS):
        order = (base, ours) if number % 2 else (ours, base)
        took = {client: median(latencies(client)) for client in order}
        rounds.append((took[base], took[ours]))
    ratio = median(ours_s / base_s for base_s, ours_s in rounds)
    base_s, ours_s = (median(column) for column in zip(*rounds, strict=True))
    print(
        f"{label:28} {ratio:5.2f}x   {1 / ours_s:6.0f}/s p50 {1000 * ours_s:6.3f} ms beside "
        f"{1 / base_s:6.0f}/s p50 {1000 * base_s:6.3f} ms"
    )


def registry(daemon: Running, port: int) -> None:
    """Whole and unchanged registries."""
    with closing(Client(port, "/api/models/registry")) as whole:
        size = whole.ask()
        found = re.search(rb'(?i)etag: (".+?")', whole.head)
        assert found
        tag = f"If-None-Match: {found[1].decode()}"
        body = daemon.client.get("/api/models/registry").content
    print(f"registry of {MODELS} models: {size >> 10} KiB")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = taken.getsockname()[1]
        process = multiprocessing.get_context("fork").Process(target=bare, args=(taken, body))
        process.start()
    try:
        for label, headers in (("registry / bare handler", []), ("304 / bare 304", [tag])):
            ours = Client(port, "/api/models/registry", *headers)
            base = Client(other, "/api/models/registry", *headers)
            with closing(ours), closing(base):
                compare(label, base, ours)
    finally:
        process.terminate()
        process.join()


def while_scanning(daemon: Running, port: int, path: str, work: Callable[[], object]) -> None:
    """What a caller of `path` feels while `work` goes on."""
    took = []
    thread = threading.Thread(target=work)
    with closing(Client(port, path)) as client:
        client.ask()
        thread.start()
        while thread.is_alive():
            start = perf_counter()
            client.ask()
            took.append(1000 * (perf_counter() - start))
            sleep(0.001)
    thread.join()
    p99 = quantiles(took, n=100)[98]
    met = "met" if p99 < P99_TARGET_MS else "MISSED"
    print(
        f"{path:24} p50 {median(took):6.2f}  p99 {p99:6.2f}  max {max(took):6.2f} ms "
        f"({len(took)} times; target p99 {P99_TARGET_MS} ms: {met})"
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    print(f"machine: {cpu()}, Python {platform.python_version()}")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="magid-bench-") as folder:
        daemon = Running(
            Path(folder), port=port, port_range=(20_000, 20_009), llama_server=Path(sys.executable)
        )
        (daemon.profiles / "test.yaml").write_text("name: Test\n")
        for number in range(MODELS):
            ggufs.write_sparse_model(
                daemon.models / f"Model-{number}-8B-Q4_K_M.gguf", parameters_billions=8.0
            )
        with daemon, daemon.client:
            daemon.wait_ready()
            registry(daemon, port)
            aside = Path(folder, "aside")
            for path in ("/livez", "/api/models/status", "/api/models/registry"):
                aside.mkdir()
                size = write_big(aside, BIG_HEADERS)
                aside.rename(daemon.models / "big")
                print(f"rescan of {BIG_HEADERS} new headers of {size >> 20} MiB, meanwhile")
                while_scanning(daemon, port, path, lambda: daemon.ask("POST", "/api/models/rescan"))
                for file in (daemon.models / "big").iterdir():
                    file.unlink()
                (daemon.models / "big").rmdir()


if __name__ == "__main__":
    main()

"""What watchers of /api/events cost: `python -m` this module.

One decision after another is made over one connection, with nobody watching, with 99 who read, and
with those and one who never reads; in turn, so that the ratios are of one machine and one moment.
"""

import platform
import selectors
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

import httpx

from tests.bench.bench_gguf import cpu
from tests.support import fake_llama, ggufs
from tests.support.running import Running

WATCHERS = 99
ROUNDS = 5
DECISIONS = 40
ASK = b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
MODEL = "alpha_1p0b_q4km_fast"


def watcher(port: int) -> socket.socket:
    """One that has got its snapshot's beginning, so that it is known to be there."""
    one = socket.create_connection(("127.0.0.1", port))
    one.sendall(ASK)
    one.recv(65536)
    return one


@contextmanager
def crowd(port: int, count: int) -> Iterator[None]:
    """So many who read, in a thread of their own."""
    with ExitStack() as held, selectors.DefaultSelector() as selector:
        over, end = socket.socketpair()
        held.enter_context(over)
        held.enter_context(end)
        for one in [held.enter_context(watcher(port)) for _ in range(count)]:
            selector.register(one, selectors.EVENT_READ)
        selector.register(over, selectors.EVENT_READ)

        def read() -> None:
            while True:
                for key, _ in selector.select():
                    if key.fileobj is over:
                        return
                    key.fileobj.recv(1 << 20)  # type: ignore[union-attr]  # a socket

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield
        finally:
            end.send(b"x")
            thread.join()


def decide(daemon: Running) -> float:
    """Seconds of one decision, the median of DECISIONS."""
    took = []
    client = httpx.Client(base_url=daemon.url, trust_env=False)
    for number in range(DECISIONS):
        body = {"tier": ("fast", "powerful")[number % 2]}
        start = perf_counter()
        client.put(f"/api/models/{MODEL}/tier", json=body).raise_for_status()
        took.append(perf_counter() - start)
    client.close()
    return median(took)


def compare(daemon: Running) -> None:
    alone, watched, stuck = [], [], []
    for _ in range(ROUNDS):
        alone.append(decide(daemon))
        with crowd(daemon.port, WATCHERS):
            watched.append(decide(daemon))
        with crowd(daemon.port, WATCHERS), watcher(daemon.port):
            stuck.append(decide(daemon))
    base = median(alone)
    print(f"a decision, nobody watching    {1000 * base:6.2f} ms")
    for label, took in ((f"{WATCHERS} who read", watched), ("and one who never reads", stuck)):
        ratio = median(t / a for t, a in zip(took, alone, strict=True))
        print(f"{label:30} {1000 * median(took):6.2f} ms  {ratio:5.2f}x")
    ratio = median(s / w for s, w in zip(stuck, watched, strict=True))
    print(f"the one who never reads costs   {ratio:5.2f}x")


def main() -> int:
    print(f"Python {platform.python_version()}, {cpu()}")
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as free:
        folder = Path(name)
        port = free.getsockname()[1]
        program = fake_llama.install(folder / "bin")
        daemon = Running(folder, port=port, port_range=(20_000, 20_009), llama_server=program)
        daemon.configuration.write_text("port_range: [20000, 20009]\n")
        (daemon.profiles / "test.yaml").write_text("name: Test\nenabled_models: []\n")
        ggufs.write_sparse_model(daemon.models / "Alpha-1B-Q4_K_M.gguf", parameters_billions=1)
        free.close()
        with daemon, daemon.client:
            daemon.wait_ready()
            compare(daemon)
    return 0


if __name__ == "__main__":
    sys.exit(main())

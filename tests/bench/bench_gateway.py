"""What the gateway adds to a request beside nginx and llama-server's router; `python -m` it.

All in one run, against one real llama-server with a tiny model. Every round asks all of them in
turn, and what one adds is the median over rounds of its time less the direct one's. nginx is
Debian's, with the settings its documentation advises for this: no buffering, and kept connections
only where llama-server keeps them (without streaming). nginx's worker and magid are one process
each, so CPU is that process's own, by its clock in /proc.

BENCH_LITELLM=/path/to/litellm adds LiteLLM's proxy, BENCH_REQUESTS=N shortens the long run.
"""

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

from tests.bench.bench_gguf import cpu
from tests.bench.gateway_ways import Way, litellm, nginx, nginx_program, router
from tests.conftest import _free_port, _free_range
from tests.support import fleets, ggufs
from tests.support.fleets import MEDIUM
from tests.support.rest import Parts
from tests.support.running import Running

ROUNDS = 15
REQUESTS = 60  # of each, in a round
CLIENTS = 32
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
LONG_RUN = 100_000


class Client:
    """One kept connection; counts how often the other side ended it."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._socket: socket.socket | None = None
        self.reconnects = -1

    def request(self, *, stream: bool, tokens: int) -> bytes:
        body = json.dumps(
            {
                "model": self._way.model,
                "messages": [{"role": "user", "content": "Hello"}],
                "max_tokens": tokens,
                "stream": stream,
                "ignore_eos": True,
            }
        ).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {self._way.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def ask(self, request: bytes) -> tuple[float, float, list[float]]:
        """Seconds to the first byte, to the last, and between segments; or ConnectionError."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._way.port), timeout=60)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.reconnects += 1
        began = perf_counter()
        self._socket.sendall(request)
        data = self._receive()
        first = last = perf_counter()
        gaps = []
        head, _, body = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(head[:200])
        is_chunked = b"chunked" in head.lower()
        length = (
            0 if is_chunked else int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
        )
        tail = body
        size = len(body)
        while not (tail.endswith(b"0\r\n\r\n") if is_chunked else size >= length):
            data = self._receive()
            now = perf_counter()
            gaps.append(now - last)
            last = now
            size += len(data)
            tail = (tail + data)[-16:]
        return first - began, last - began, gaps

    def _receive(self) -> bytes:
        assert self._socket is not None
        data = self._socket.recv(65536)
        if not data:
            self.close()
            raise ConnectionError("closed")
        return data

    def ask_surely(self, request: bytes) -> tuple[float, float, list[float]]:
        """Once more on a new connection, where the other side ended the old one in between."""
        try:
            return self.ask(request)
        except ConnectionError:
            self.close()
            return self.ask(request)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def wait_for_answer(way: Way) -> None:
    """Until its model is loaded: the router answers 503 before."""
    deadline = time.monotonic() + 60
    client = Client(way)
    while True:
        try:
            client.ask(client.request(stream=False, tokens=1))
            return
        except ConnectionError:
            if time.monotonic() > deadline:
                raise
            client.close()
            time.sleep(0.05)


# -- measuring -----------------------------------------------------------------------------------


def side_by_side(ways: list[Way], *, stream: bool, tokens: int) -> dict[str, list[list[float]]]:
    """Name -> for each round the medians of first byte, last byte and gap, in ms."""
    found: dict[str, list[list[float]]] = {way.name: [] for way in ways}
    clients = {way.name: Client(way) for way in ways}
    for number in range(ROUNDS):
        for way in ways if number % 2 else ways[::-1]:
            client = clients[way.name]
            request = client.request(stream=stream, tokens=tokens)
            client.ask_surely(request)
            took = [client.ask_surely(request) for _ in range(REQUESTS)]
            gaps = [gap for _, _, gaps in took for gap in gaps] or [0.0]
            columns = (median(t[0] for t in took), median(t[1] for t in took), median(gaps))
            found[way.name].append([1000 * value for value in columns])
    for client in clients.values():
        client.close()
    return found


def added(found: dict[str, list[list[float]]], name: str, column: int) -> float:
    """What this way adds to the direct one: the median over rounds."""
    pairs = zip(found[name], found["direct"], strict=True)
    return median(own[column] - base[column] for own, base in pairs)


def show_latency(
    title: str, ways: list[Way], found: dict[str, list[list[float]]], column: int
) -> None:
    print(title)
    own = added(found, "magid", column)
    for way in ways[1:]:
        plus = added(found, way.name, column)
        base = median(row[column] for row in found["direct"])
        ratio = f"magid adds {own / plus:5.2f}x of it" if way.name != "magid" and plus > 0 else ""
        print(f"  {way.name:18} +{plus:6.3f} ms on {base:.3f} ms   {ratio}")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def load(
    way: Way, count: int, *, stream: Callable[[int], bool], tokens: int
) -> tuple[float, int, int]:
    """Requests per second of CLIENTS clients, failures, and connections that were ended."""
    failed, reconnects = [], []

    def work(own: int) -> None:
        client = Client(way)
        requests = [client.request(stream=kind, tokens=tokens) for kind in (False, True)]
        for number in range(own):
            try:
                client.ask(requests[stream(number)])
            except (OSError, IndexError) as error:
                failed.append(error)
                client.close()
        reconnects.append(client.reconnects)
        client.close()

    threads = [threading.Thread(target=work, args=(count // CLIENTS,)) for _ in range(CLIENTS)]
    began = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count / (perf_counter() - began), len(failed), sum(reconnects)


def show_cpu(ways: list[Way]) -> None:
    """CPU of the process between, per request, at CLIENTS clients; rounds in turn."""
    print(f"CPU per request, {CLIENTS} clients, 1 token, not streamed")
    spent: dict[str, list[float]] = {way.name: [] for way in ways if way.pid}
    for number in range(5):
        for way in ways if number % 2 else ways[::-1]:
            if way.pid is None:
                continue
            before = cpu_s(way.pid)
            load(way, 3200, stream=lambda _: False, tokens=1)
            spent[way.name].append((cpu_s(way.pid) - before) / 3200 * 1000)
    own = median(spent["magid"])
    for name, values in spent.items():
        print(
            f"  {name:18} {median(values):.3f} ms   magid takes {own / median(values):.2f}x of it"
        )


def long_run(way: Way, count: int) -> None:
    """Half of them streamed; nothing may fail, and memory must not grow."""
    assert way.pid is not None

    def resident() -> float:
        return int(Path(f"/proc/{way.pid}/statm").read_text().split()[1]) * 4096 / 2**20

    rates, failures, ended = [], 0, 0
    memory = []
    for _ in range(10):
        rate, failed, reconnects = load(way, count // 10, stream=lambda n: n % 2 == 1, tokens=1)
        rates.append(rate)
        failures += failed
        ended += reconnects
        memory.append(resident())
    print(
        f"{count} requests, half streamed, {CLIENTS} clients: {failures} failed, {ended} "
        f"connections ended by magid, {median(rates):.0f}/s, resident after each tenth "
        f"{', '.join(f'{mib:.1f}' for mib in memory)} MiB"
    )


@contextmanager
def stage(folder: Path) -> Iterator[tuple[Running, list[Way], list[Way]]]:
    """The ways, for answers at once and for streams."""
    program = Path(
        subprocess.run(
            ["packaging/provision-llama-server"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    parts = Parts(program, _free_port, _free_range)

    def write(models: Path) -> None:
        ggufs.write_chat_model(models / "Medium-F16.gguf", name="Medium", quantization="F16")

    # Quiet: where the servers are children, each line of their logs passes through the daemon.
    defaults = f"{{n_threads: 1, parallel: {CLIENTS}, ctx_size: 32768, extra_args: [-lv, '0']}}"
    with ExitStack() as held:
        magid = held.enter_context(fleets.fleet(parts, folder / "magid", write, defaults=defaults))
        server = magid.servers()[MEDIUM]
        assert magid.process is not None
        key = magid.key(server["port"])
        direct = Way("direct", server["port"], None, key, MEDIUM)
        ours = Way("magid", magid.port, magid.process.pid, "any", MEDIUM)
        both = []
        for name, keep in (("nginx", True), ("nginx-stream", False)):
            port, pid = held.enter_context(
                contextmanager(nginx)(folder / name, server["port"], keep=keep)
            )
            both.append(Way("nginx", port, pid, key, MEDIUM))
        port, pid = held.enter_context(
            contextmanager(router)(
                folder / "router",
                program,
                {"tiny.gguf": magid.models / "Medium-F16.gguf"},
                ("-np", str(CLIENTS), "-t", "1", "-c", "32768"),
            )
        )
        way = Way("llama-server router", port, pid, "any", "tiny")
        wait_for_answer(way)
        plain = [direct, ours, both[0], way]
        if lite := os.environ.get("BENCH_LITELLM"):
            port, pid = held.enter_context(
                contextmanager(litellm)(folder / "litellm", lite, direct)
            )
            plain.append(Way("LiteLLM", port, pid, "sk-bench", MEDIUM))
        yield magid, plain, [direct, ours, both[1], way]


def main() -> None:
    if nginx_program() is None:
        sys.exit("cannot compare with nginx: there is none; run packaging/bench-tools")
    print(f"machine: {cpu()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    with (
        tempfile.TemporaryDirectory(prefix="magid-bench-") as folder,
        stage(Path(folder)) as (_, plain, streamed),
    ):
        found = side_by_side(plain, stream=False, tokens=1)
        show_latency("whole answers, 1 token, 1 client: added p50", plain, found, 1)
        found = side_by_side(streamed, stream=True, tokens=16)
        show_latency("streams of 16 tokens: added time to first byte, p50", streamed, found, 0)
        show_latency("streams of 16 tokens: added gap, p50", streamed, found, 2)
        show_cpu(plain)
        long_run(plain[1], int(os.environ.get("BENCH_REQUESTS", LONG_RUN)))


if __name__ == "__main__":
    main()

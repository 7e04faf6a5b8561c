"""Many connections that ask nothing, and a daemon that has no descriptor left.

`python -m tests.soak.crowds CONNECTIONS SEED FOLDER`.
"""

import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tests.soak.figures import Figures
from tests.soak.parts import daemon
from tests.support import fleets
from tests.support.fleets import SMALL
from tests.support.rest import Parts
from tests.support.running import Running

LEFT = 20  # descriptors that the daemon may still open
WATCHED_S = 2.0  # while nothing can be accepted
MOST_CPU = 0.5  # of one processor meanwhile: a busy loop takes all of it
RECOVERED_S = 120.0


@contextmanager
def connections(magid: Running, count: int) -> Iterator[list[socket.socket]]:
    """Open, and silent."""
    opened = []
    try:
        for _ in range(count):
            opened.append(socket.create_connection(("127.0.0.1", magid.port), timeout=30))
        yield opened
    finally:
        for one in opened:
            one.close()


def idle(magid: Running, count: int, figures: Figures) -> None:
    """It answers beside them, and gives everything back when they are gone."""
    process = psutil.Process(pid_of(magid))
    before, held = process.num_fds(), process.memory_info().rss
    with connections(magid, count):
        figures.rounds += count
        with figures.recovery():
            figures.check(is_alive(magid), f"no answer beside {count} idle connections")
        wait_for(lambda: accepted(magid) >= count, figures, "place for all of them")
        grown = process.memory_info().rss - held
        figures.more["KiB for each idle connection"] = round(grown / count / 1024, 1)
    wait_for(lambda: process.num_fds() <= before + 2, figures, "descriptors of idle connections")


def accepted(magid: Running) -> int:
    """Connections that it holds; its descriptors would count what it asks its servers too."""
    held = psutil.Process(pid_of(magid)).net_connections("tcp4")
    return sum(bool(one.raddr) and one.laddr.port == magid.port for one in held)


def exhausted(magid: Running, figures: Figures) -> None:
    """No descriptor left: what is connected is served, nothing is lost, it recovers by itself."""
    pid = pid_of(magid)
    process = psutil.Process(pid)
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with httpx.Client(base_url=magid.url, timeout=30, trust_env=False) as client:
        figures.check(client.get("/livez").is_success, "no answer before")
        limit = process.num_fds() + LEFT
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, usual[1]))
        try:
            with connections(magid, 5 * LEFT):
                figures.rounds += 1
                began = sum(process.cpu_times()[:2])
                time.sleep(WATCHED_S)  # what is measured is how busy it is meanwhile
                share = (sum(process.cpu_times()[:2]) - began) / WATCHED_S
                figures.check(share < MOST_CPU, f"{share:.0%} of a processor without descriptors")
                figures.check(client.get("/livez").is_success, "who is connected gets no answer")
                put = client.put(f"/api/models/{SMALL}/tier", json={"tier": "powerful"})
                shown = client.get(f"/api/models/{SMALL}").json()["tierOverride"]
                kept = "powerful" if put.is_success else None
                figures.check(shown == kept, f"a decision was answered {put.status_code}: {shown}")
                figures.more["a decision without descriptors"] = put.status_code
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
    with figures.recovery():
        wait_for(lambda: is_alive(magid), figures, "answer after descriptors were free again")


def wait_for(is_so: object, figures: Figures, what: str) -> None:
    assert callable(is_so)
    deadline = time.monotonic() + RECOVERED_S
    while not is_so():
        if time.monotonic() > deadline:
            figures.failures.append(f"no {what} within {RECOVERED_S:g} s")
            return
        time.sleep(0.05)


def is_alive(magid: Running) -> bool:
    try:
        return httpx.get(f"{magid.url}/livez", timeout=10, trust_env=False).is_success
    except httpx.TransportError:
        return False


def pid_of(magid: Running) -> int:
    assert magid.process is not None
    return magid.process.pid


def run(count: int, seed: int, folder: Path, given: Parts | None = None) -> Figures:
    figures = Figures("crowds of connections", seed)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 1000), hard))
    try:
        with daemon(folder / "magid", fleets.write_small, given) as magid:
            idle(magid, count, figures)
            exhausted(magid, figures)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return figures


if __name__ == "__main__":
    done = run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    print(done.line())
    sys.exit(bool(done.failures))

"""Another user's program takes the port of a server that has ended: magid sends it nothing.

magid is stopped meanwhile, so that it wakes up with requests to pass on and does not know yet.
"""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support import fleets
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import SMALL, chat
from tests.support.impostor_server import NOBODY, Sly
from tests.support.rest import Parts
from tests.support.running import Running, frozen

CANARY = "the prompt that no one else may read"
CLIENTS = 4
pytestmark = pytest.mark.slow


@pytest.fixture
def magid(parts: Parts, tmp_path: Path) -> Iterator[Running]:
    with fleets.fleet(parts, tmp_path / "magid", fleets.write_small, ports=2) as running:
        yield running


def ask(client: httpx.Client) -> int:
    body = chat(SMALL, CANARY)
    return client.post("/v1/chat/completions", json=body).status_code


def wait_unread(port: int, count: int) -> None:
    """Waits until this many requests are unread in the sockets of a stopped daemon."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        here = [row for row in rows if row[1].endswith(f":{port:04X}")]
        if sum(int(row[4].partition(":")[2], 16) > 0 for row in here) >= count:
            return
        assert time.monotonic() < deadline, "the requests did not arrive"


def bind_when_free(stranger: Sly) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not stranger.bind():
        assert time.monotonic() < deadline, "the port was never free"


def test_a_thief_of_the_port_gets_no_request(magid: Running) -> None:
    server = magid.servers()[SMALL]
    key = magid.key(server["port"])
    assert magid.process is not None
    stranger = Sly(server["port"], SMALL, NOBODY)
    clients = [fleets.client(magid) for _ in range(CLIENTS)]
    assert {ask(client) for client in clients} == {200}  # their connections stay open
    with ThreadPoolExecutor(CLIENTS) as askers:
        with frozen(magid.process.pid):
            answers = [askers.submit(ask, client) for client in clients]
            wait_unread(magid.port, CLIENTS)
            os.kill(server["pid"], signal.SIGKILL)
            bind_when_free(stranger)
        with stranger.bound():
            assert {answer.result(DEADLINE_S) for answer in answers} <= {502, 503}
            assert magid.wait_state(SMALL, "failed")["stateReason"].startswith("port ")
            assert ask(clients[0]) == 503
    assert CANARY.encode() not in stranger.heard
    assert key.encode() not in stranger.heard
    magid.ask("POST", f"/api/models/servers/{SMALL}/start")
    magid.wait_state(SMALL, "ready")
    assert ask(clients[0]) == 200
    for client in clients:
        client.close()


def test_a_taken_port_fails_the_server(magid: Running) -> None:
    """A program is already listening: the server is not started and never counts as ready."""
    port = magid.servers()[SMALL]["port"]
    magid.ask("POST", f"/api/models/servers/{SMALL}/stop")
    magid.wait_state(SMALL, "stopped")
    with Sly(port, SMALL, NOBODY) as stranger:
        magid.ask("POST", f"/api/models/servers/{SMALL}/start")
        reason = magid.wait_state(SMALL, "failed")["stateReason"]
        assert f"port {port} is taken" in reason
        assert (
            httpx.get(f"{magid.url}/readyz", timeout=DEADLINE_S, trust_env=False).status_code == 503
        )
    assert stranger.heard == b""

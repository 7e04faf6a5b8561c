"""The end of `magid`: signals, requests in progress, connections that came too late."""

import os
import shutil
import signal
import socket
import threading
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support import ggufs
from tests.support.deadlines import DEADLINE_S
from tests.support.running import Running

pytestmark = pytest.mark.slow

ALPHA = "alpha_1p0b_q4km_fast"


def children(magid: Running) -> list[psutil.Process]:
    assert magid.process is not None
    return psutil.Process(magid.process.pid).children(recursive=True)


def has_server(magid: Running) -> bool:
    server = magid.servers().get(ALPHA)
    return server is not None and server["state"] == "loading"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_leaves_no_process(
    magid: Running, number: signal.Signals
) -> None:
    path = magid.folder / "magid.sock"
    magid.environment["MAGI_BIND"] += f",unix:{path}"
    magid.start()
    assert path.is_socket()
    magid.wait_for("a server", lambda: has_server(magid))
    servers = children(magid)
    assert servers
    assert magid.process is not None
    magid.process.send_signal(number)
    assert magid.process.wait(DEADLINE_S) == 0
    gone, alive = psutil.wait_procs(servers, DEADLINE_S)
    assert gone
    assert not alive
    assert "magid has ended" in magid.log.read_text()
    assert "Traceback" not in magid.log.read_text()
    assert not list((magid.state / "keys").glob("*"))
    assert not path.exists()


def test_ctrl_c_in_a_terminal_reaches_it_alone(magid: Running) -> None:
    """The others would print a traceback each, and servers would end before they are drained."""
    magid.start()
    magid.wait_for("a server", lambda: has_server(magid))
    assert magid.process is not None
    own = os.getpgid(magid.process.pid)
    assert [c for c in children(magid) if os.getpgid(c.pid) == own] == []


def test_a_signal_during_the_scan(magid: Running) -> None:
    for at in range(60):
        ggufs.write_sparse_model(magid.models / f"M{at}-1B-Q4_K_M.gguf", parameters_billions=1)
    magid.start()
    assert magid.stop() == 0
    assert "Traceback" not in magid.log.read_text()


class Restart:
    """A request under way in a thread of its own: it waits until the model has loaded again."""

    def __init__(self, magid: Running, wait_s: int) -> None:
        before = magid.servers()[ALPHA]["invocationId"]
        path = f"/api/models/servers/{ALPHA}/restart?wait={wait_s}"
        self._response: httpx.Response | None = None
        self._thread = threading.Thread(target=self._ask, args=(magid, path))
        self._thread.start()
        magid.wait_for(
            "the restart", lambda: magid.servers()[ALPHA]["invocationId"] not in (None, before)
        )

    def _ask(self, magid: Running, path: str) -> None:
        self._response = magid.client.request("POST", path)

    def answer(self) -> httpx.Response:
        self._thread.join(DEADLINE_S)
        assert self._response is not None
        return self._response


def draining(magid: Running) -> None:
    """SIGTERM, and wait until the port is closed."""
    assert magid.process is not None
    events = magid.events()
    next(events)
    magid.process.send_signal(signal.SIGTERM)
    for _ in events:
        pass  # the stream ends when the drain begins
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{magid.url}/livez", timeout=DEADLINE_S, trust_env=False)


def test_a_request_under_way_is_finished_and_no_new_one_is_taken(magid: Running) -> None:
    magid.start()
    magid.wait_for("a server", lambda: has_server(magid))
    asked = Restart(magid, 60)
    draining(magid)
    (magid.folder / "loaded").touch()
    answer = asked.answer()
    assert (answer.status_code, answer.json()["servers"][0]["state"]) == (200, "ready")
    assert magid.process is not None
    assert magid.process.wait(DEADLINE_S) == 0


def test_a_request_that_is_still_being_sent_is_answered(magid: Running) -> None:
    magid.start()
    body = b'{"tier": "powerful"}'
    head = (
        f"PUT /api/models/{ALPHA}/tier HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Expect: 100-continue\r\n\r\n"
    )
    magid.wait_for("a server", lambda: has_server(magid))
    with socket.create_connection(("127.0.0.1", magid.port), DEADLINE_S) as connection:
        connection.sendall(head.encode())
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body[:5])
        draining(magid)
        connection.sendall(body[5:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert magid.process is not None
    assert magid.process.wait(DEADLINE_S) == 0


def test_who_has_just_connected_is_answered(magid: Running) -> None:
    """At a restart under load there is always somebody between connecting and asking."""
    magid.start()
    with socket.create_connection(("127.0.0.1", magid.port), DEADLINE_S) as connection:
        draining(magid)
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert magid.process is not None
    assert magid.process.wait(DEADLINE_S) == 0


def test_who_has_connected_and_does_not_ask_is_not_waited_for(magid: Running) -> None:
    magid.configuration.write_text(magid.configuration.read_text() + "drain_timeout: 600\n")
    magid.start()
    with socket.create_connection(("127.0.0.1", magid.port), DEADLINE_S):
        draining(magid)
        assert magid.process is not None
        assert magid.process.wait(DEADLINE_S) == 0


def test_a_second_signal_does_not_wait_for_requests(magid: Running) -> None:
    magid.configuration.write_text(magid.configuration.read_text() + "drain_timeout: 600\n")
    magid.start()
    magid.wait_for("a server", lambda: has_server(magid))
    asked = Restart(magid, 600)
    draining(magid)
    assert magid.process is not None
    magid.process.send_signal(signal.SIGTERM)
    assert magid.process.wait(DEADLINE_S) == 0
    assert "requests still under way" in magid.log.read_text()
    answer = asked.answer()
    assert (answer.status_code, answer.json()["error"]) == (409, "Conflict")


def test_an_upgrade_of_llama_server_is_noted(magid: Running) -> None:
    with magid:
        magid.wait_state(ALPHA, "loading")
        codes = {one["code"] for one in magid.get("/api/models/status")["conditions"]}
        assert "OlderProgram" not in codes
        program = Path(magid.environment["LLAMA_SERVER_PATH"])
        newer = Path(shutil.copy(program, program.with_suffix(".new")))
        newer.replace(program)  # as dpkg does it
        conditions = magid.get("/api/models/status")["conditions"]
        (note,) = (one for one in conditions if one["code"] == "OlderProgram")
        assert note["modelIds"] == [ALPHA]

"""Which RPC servers are in llama-server's list of devices: those that answer, and no other."""

import socket
import threading
from collections.abc import Callable

import pytest

from magid.llama.device_list import HEAD, RUN, listed
from magid.standalone.reach_servers import reached
from tests.support.deadlines import PATIENCE_S

OWN = f"{HEAD}\n  CUDA0: A (1 MiB, 1 MiB free)"


@pytest.mark.parametrize(
    ("told", "is_usable", "runs", "silent"),
    [
        ("a:1 \nb:2 \n", True, [("a:1", "b:2")], ""),
        ("a:1 Connection refused\nb:2 \n", True, [("b:2",)], "a:1: Connection refused"),
        ("a:1 no\nb:2 no\n", True, [()], "a:1: no\ncannot reach the RPC server b:2: no"),
        # whatever runs in place of the script, the machine's own GPUs are listed
        ("Traceback\n", True, [()], "a:1: it was not tried"),
        ("a:1 \nb:2 no\n", False, [("a:1",), ()], "a:1: llama-server cannot use it"),
    ],
)
async def test_those_that_answer(
    told: str, runs: list[tuple[str, ...]], silent: str, *, is_usable: bool
) -> None:
    ran: list[tuple[str, ...]] = []

    async def run(remote: tuple[str, ...]) -> str:
        ran.append(remote)
        return OWN if is_usable or not remote else "abort: no back end RPC"

    async def reach(remote: tuple[str, ...]) -> str:
        return told

    output = await listed(run, reach, ("a:1", "b:2"))
    assert ran == runs
    assert output.endswith(OWN)
    assert silent in output


async def test_one_that_hangs_later_is_left_out() -> None:
    """It answered, and yet llama-server does not end with it; the machine's own GPUs are listed."""

    async def run(remote: tuple[str, ...]) -> str:
        if remote:
            raise RUN.late()
        return OWN

    async def reach(remote: tuple[str, ...]) -> str:
        return "a:1 \n"

    output = await listed(run, reach, ("a:1",))
    assert output.endswith(OWN)
    assert "cannot reach the RPC server a:1: llama-server did not end within 30 s" in output


async def test_without_rpc_servers_nothing_is_tried() -> None:
    async def run(remote: tuple[str, ...]) -> str:
        return f"{remote}"

    async def reach(remote: tuple[str, ...]) -> str:
        raise AssertionError(remote)

    assert await listed(run, reach, ()) == "()"


def answering(server: socket.socket) -> None:
    """Takes a client, and ends the connection when it ends, as llama.cpp's RPC server does."""
    client, _ = server.accept()
    with client:
        assert client.recv(1) == b""


def test_reaching(free_port: Callable[[], int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        here, away = (f"127.0.0.1:{n}" for n in (server.getsockname()[1], free_port()))
        thread = threading.Thread(target=answering, args=(server,))
        thread.start()
        nowhere = "224.0.0.1:1"
        found = reached([here, away, nowhere], PATIENCE_S)
        thread.join()
    assert (found.pop(here), found.pop(away)) == ("", "Connection refused")
    assert found[nowhere] not in ("", "no answer in time")


def test_one_that_takes_no_client() -> None:
    """The kernel connects it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        busy = f"127.0.0.1:{server.getsockname()[1]}"
        told = reached([busy], 0.5)[busy]
    assert told == "it takes no client now: another one uses it, or it hangs"

"""Which RPC servers are in llama-server's list of devices: those that answer, and no other."""

import socket
from collections.abc import Callable

import pytest

from magid.errors import ServerFailed
from magid.llama.device_list import HEAD, listed
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
        if remote and not is_usable:
            raise ServerFailed("cannot list the GPUs: x")
        return OWN

    async def reach(remote: tuple[str, ...]) -> str:
        return told

    output = await listed(run, reach, ("a:1", "b:2"))
    assert ran == runs
    assert output.endswith(OWN)
    assert silent in output


async def test_without_rpc_servers_nothing_is_tried() -> None:
    async def run(remote: tuple[str, ...]) -> str:
        return f"{remote}"

    async def reach(remote: tuple[str, ...]) -> str:
        raise AssertionError(remote)

    assert await listed(run, reach, ()) == "()"


def test_reaching(free_port: Callable[[], int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        here, away = (f"127.0.0.1:{n}" for n in (server.getsockname()[1], free_port()))
        assert reached([here, away], PATIENCE_S) == {here: "", away: "Connection refused"}

"""What clients get from a magid that cannot start, over real sockets."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from magid.__main__ import exit_status
from magid.api import start_failure
from magid.errors import AlreadyRunning, CannotStart, CannotWrite, InvalidConfig, MagidError
from tests.support.deadlines import DEADLINE_S

ROOT = Path(__file__).resolve().parents[2]
REASON = "cannot listen on 0.0.0.0:8000: there is no token; make one"
ERROR = CannotStart(REASON, cause="InvalidConfig")


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen()
    return sock


async def ask(address: str | tuple[str, int], request: bytes) -> tuple[str, dict[str, object]]:
    """The status line and the body of the answer."""
    async with asyncio.timeout(DEADLINE_S):
        if isinstance(address, str):
            reader, writer = await asyncio.open_unix_connection(address)
        else:
            reader, writer = await asyncio.open_connection(*address)
        writer.write(request)
        answer = await reader.read()
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode().splitlines()[0], json.loads(body)


async def stop(answering: asyncio.Task[None]) -> None:
    assert not answering.done()
    answering.cancel()
    await asyncio.wait([answering])


async def test_each_request_gets_the_reason(tmp_path: Path) -> None:
    """On the unix socket; on TCP only that there is one. Bodies and early connections alike."""
    path = str(tmp_path / "s")
    tcp = socket.create_server(("127.0.0.1", 0))
    with listening(Path(path)) as unix, tcp:
        early = socket.socket(socket.AF_UNIX)
        early.connect(path)  # it waits before magid accepts, and sends nothing at all
        answering = asyncio.create_task(start_failure.answer([tcp, unix], ERROR))
        for request in (
            b"GET /api/models/status HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 500000\r\n\r\n"
            + b"x" * 500_000,
        ):
            status, body = await ask(path, request)
            assert status.startswith("HTTP/1.1 503 ")
            assert body == {
                "error": "CannotStart", "message": REASON, "details": {"cause": "InvalidConfig"},
            }  # fmt: skip
        status, body = await ask(tcp.getsockname(), b"GET / HTTP/1.1\r\n\r\n")
        assert status.startswith("HTTP/1.1 503 ")
        assert body["error"] == "CannotStart"
        assert "0.0.0.0" not in str(body)
        await stop(answering)
        early.close()


async def test_where_no_client_waits_nothing_is_waited_for(tmp_path: Path) -> None:
    async with asyncio.timeout(start_failure.ANSWER_S / 2):
        await start_failure.answer([], ERROR, will_retry=True)
        with listening(tmp_path / "s") as unix:
            await start_failure.answer([unix], ERROR)


async def test_the_time_is_the_pause_before_the_next_try(tmp_path: Path) -> None:
    with listening(tmp_path / "s") as unix:
        answering = asyncio.create_task(start_failure.answer([unix], ERROR, will_retry=True))
        assert (await ask(str(tmp_path / "s"), b"GET / HTTP/1.1\r\n\r\n"))[1]["message"] == REASON
        await stop(answering)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidConfig("x"), 78),
        (CannotWrite("x", path="/p", errno="EACCES"), 78),
        (CannotWrite("x", path="/p", errno="EROFS"), 78),
        (CannotWrite("x", path="/p"), 78),  # of a newer format
        (CannotWrite("x", path="/p", errno="ENOSPC"), 1),
        (CannotWrite("x", path="/p", errno="EIO"), 1),
        (AlreadyRunning("x"), 1),
        (CannotStart("x"), 1),
    ],
    ids=lambda value: str(value),
)
def test_retries_stop_where_nothing_changes_by_itself(error: MagidError, status: int) -> None:
    assert exit_status(error) == status


# Becomes the process that LISTEN_PID names, as PID 1 does it.
_BECOME = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="magid-local")
os.execv(sys.executable, [sys.executable, "-m", "magid", "--config", "/does/not/exist"])
"""


def test_a_configuration_that_cannot_be_read_is_told_to_systemd_and_to_clients(
    tmp_path: Path,
) -> None:
    heard = tmp_path / "notify"
    with (
        listening(tmp_path / "s") as unix,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        socket.socket(socket.AF_UNIX) as client,
    ):
        manager.bind(str(heard))
        client.connect(str(tmp_path / "s"))
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        process = subprocess.Popen(
            [sys.executable, "-c", _BECOME, str(unix.fileno())],
            pass_fds=[unix.fileno()], cwd=ROOT, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "NOTIFY_SOCKET": str(heard)},
        )  # fmt: skip
        try:
            client.settimeout(DEADLINE_S)
            with client.makefile("rb") as answer:
                body = json.loads(answer.read().partition(b"\r\n\r\n")[2])
            manager.settimeout(DEADLINE_S)
            status = manager.recv(4096).decode()
        finally:
            process.kill()
            _, said = process.communicate()
    assert body["error"] == "CannotStart"
    assert body["message"].startswith("cannot use --config: /does/not/exist does not exist")
    assert status == f"STATUS={body['message']}"
    assert said == f"magid: {body['message']}\n"

"""Answers the clients that wait at systemd's sockets for a magid that cannot start.

A connection that was not accepted makes systemd start magid again at once, whatever RestartSec=
says, until its start limit closes the sockets for good. So a magid that cannot start accepts the
connections, says why, and only then ends: each client gets its answer, and the sockets stay open.
"""

import asyncio
import select
import socket
from collections.abc import Sequence
from functools import partial

from magid.errors import CannotStart
from magid.http.json_text import to_json
from magid.http.status import status_of

ANSWER_S = 10.0  # a client that asks again and again costs one start in this time
_MAX_HEAD_BYTES = 65_536
_CLIENT_S = 2.0  # for a client to send its request, and to read the answer
_ELSEWHERE = CannotStart("cannot answer: magid does not start; on its machine, magictl says why")


async def answer(
    passed: Sequence[socket.socket], error: CannotStart, *, will_retry: bool = False
) -> None:
    """Answers every request on these sockets with the error, for ANSWER_S. Never fails.

    Returns at once if no client waits, unless systemd `will_retry`: then the time is the pause.
    Only clients on the unix socket are told the reason, which may name files.
    """
    if not passed or not (will_retry or _is_awaited(passed)):
        return
    servers: list[asyncio.Server] = []
    clients: set[asyncio.Task[None]] = set()
    try:
        for sock in passed:
            reply = _reply(error if sock.family == socket.AF_UNIX else _ELSEWHERE)
            refuse = partial(_refuse, clients, reply)
            servers.append(await asyncio.start_server(refuse, sock=sock, limit=_MAX_HEAD_BYTES))
        await asyncio.sleep(ANSWER_S)
    except OSError:
        return  # the reason is in the log; magid ends either way
    finally:
        for server in servers:
            server.close()
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


def _is_awaited(passed: Sequence[socket.socket]) -> bool:
    waiting = select.poll()
    for sock in passed:
        waiting.register(sock, select.POLLIN)
    return bool(waiting.poll(0))


def _reply(error: CannotStart) -> bytes:
    body = to_json({"error": error.code, "message": error.message, "details": dict(error.details)})
    head = (
        f"HTTP/1.1 {status_of(error)} Service Unavailable\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


async def _refuse(
    clients: set[asyncio.Task[None]],
    reply: bytes,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Reads one head and answers it.

    A body is read and dropped: else its client could get a reset in the place of the answer.
    """
    task = asyncio.current_task()
    assert task is not None
    clients.add(task)
    try:
        async with asyncio.timeout(_CLIENT_S):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply)
            writer.write_eof()
            while await reader.read(_MAX_HEAD_BYTES):
                pass
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return
    finally:
        clients.discard(task)
        writer.close()

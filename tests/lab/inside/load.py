"""Run by Python within a container: so many requests a second, whatever becomes of them.

Standard input has one line of JSON: {"targets": {NAME: {"port", "request", "rate": how often a
second}}, "stream": {"port", "request"}}. At its end the load ends too, and standard
output gets {NAME: {OUTCOME: how often}}. Every request has a connection of its own, and is sent
when its time has come, however slow the others are. The stream is one request whose answer is read
bit by bit, so that it is under way all the time.

An outcome is "200", another status, or what went wrong: "refused", "reset", "cut" (the connection
ended before the answer did), "late".
"""

import asyncio
import contextlib
import json
import socket
import sys
from collections import Counter
from typing import Any

PATIENCE_S = 120.0
SIP = 2048  # bytes of the stream that are read at a time
SIP_S = 0.02
SMALL = 4096  # the receive buffer of the stream: what is not read stays with the server


def outcome_of(answer: bytes) -> str:
    """The status, if all of the body is there."""
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return "cut"
    lines = head.lower().split(b"\r\n")
    status = lines[0].split(b" ")[1].decode()
    sizes = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")]
    if b"transfer-encoding: chunked" in lines:
        return status if body.endswith(b"0\r\n\r\n") else "cut"
    return status if sizes == [len(body)] else "cut"


async def ask(port: int, request: bytes) -> str:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return "refused"
    try:
        writer.write(request)
        return outcome_of(await reader.read(-1))
    except OSError:
        return "reset"
    finally:
        writer.close()


async def asked(port: int, request: bytes, tally: Counter[str]) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            tally[await ask(port, request)] += 1
    except TimeoutError:
        tally["late"] += 1


async def load(target: dict[str, Any], over: asyncio.Event, tally: Counter[str]) -> None:
    loop = asyncio.get_running_loop()
    began, number = loop.time(), 0
    request, rate = target["request"].encode(), target["rate"]
    async with asyncio.TaskGroup() as tasks:
        while not over.is_set():
            while began + number / rate <= loop.time():
                tasks.create_task(asked(target["port"], request, tally))
                number += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), began + number / rate - loop.time())


async def sip(target: dict[str, Any], over: asyncio.Event, tally: Counter[str]) -> None:
    """Read slowly until it is over, then the rest."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    sock.setblocking(False)
    answer = b""
    try:
        await loop.sock_connect(sock, ("127.0.0.1", target["port"]))
        await loop.sock_sendall(sock, target["request"].encode())
        while data := await loop.sock_recv(sock, SIP):
            answer += data
            if not over.is_set():
                await asyncio.sleep(SIP_S)
        tally[outcome_of(answer) if over.is_set() else "early"] += 1
    except OSError:
        tally["reset"] += 1
    finally:
        sock.close()


async def main() -> None:
    loop = asyncio.get_running_loop()
    wanted = json.loads(sys.stdin.readline())
    over = asyncio.Event()
    loop.run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: over.set())
    tallies: dict[str, Counter[str]] = {name: Counter() for name in (*wanted["targets"], "stream")}
    async with asyncio.TaskGroup() as tasks:
        for name, target in wanted["targets"].items():
            tasks.create_task(load(target, over, tallies[name]))
        tasks.create_task(sip(wanted["stream"], over, tallies["stream"]))
    json.dump(tallies, sys.stdout)


asyncio.run(main())

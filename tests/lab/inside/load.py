"""Run by Python within a container: so many requests a second, whatever becomes of them.

Standard input has one line of JSON: {"targets": {NAME: {"port", "request", "rate": how often a
second, "again": whether}}, "stream": {"port", "request"}}. At its end the load ends too, and
standard output gets {NAME: {OUTCOME: how often}}. Every request has a connection of its own, and is
sent when its time has come, as long as no more than AT_ONCE are under way: a machine that is too
busy for the rate is asked less often. With "again", one whose connection is ended before the first
byte of an answer is sent once more, as every HTTP client does it; a server gives a connection up on
which nothing comes for some seconds. The stream is one request whose answer is read bit by bit, so
that it is under way all the time.

An outcome is "200", another status, or what went wrong: "refused", "reset", "cut" (the connection
ended before the answer did), "cut before its answer", "late".
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
SIP_S = 0.1
AT_ONCE = 64  # of one target
SMALL = 65_536  # the receive buffer of the stream: what is not read stays with the server


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
        answer = await reader.read(-1)
        return outcome_of(answer) if answer else "cut before its answer"
    except OSError:
        return "reset"
    finally:
        writer.close()


async def send(target: dict[str, Any], places: asyncio.Semaphore, tally: Counter[str]) -> None:
    port, request = target["port"], target["request"].encode()
    try:
        async with asyncio.timeout(PATIENCE_S):
            outcome = await ask(port, request)
            if outcome == "cut before its answer" and target["again"]:
                outcome = await ask(port, request)
            tally[outcome] += 1
    except TimeoutError:
        tally["late"] += 1
    finally:
        places.release()


async def load(target: dict[str, Any], over: asyncio.Event, tally: Counter[str]) -> None:
    loop = asyncio.get_running_loop()
    began, number = loop.time(), 0
    rate, places = target["rate"], asyncio.Semaphore(AT_ONCE)
    async with asyncio.TaskGroup() as tasks:
        while not over.is_set():
            await places.acquire()
            tasks.create_task(send(target, places, tally))
            number += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), began + number / rate - loop.time())


async def sip(target: dict[str, Any], over: asyncio.Event, tally: Counter[str]) -> None:
    """Read slowly until it is over, then the rest."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    sock.setblocking(False)
    answer = bytearray()
    try:
        await loop.sock_connect(sock, ("127.0.0.1", target["port"]))
        await loop.sock_sendall(sock, target["request"].encode())
        while data := await loop.sock_recv(sock, SMALL if over.is_set() else SIP):
            answer += data
            if not over.is_set():
                await asyncio.sleep(SIP_S)
        tally[outcome_of(bytes(answer)) if over.is_set() else "early"] += 1
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

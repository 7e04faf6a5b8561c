"""A GPU of any size, for tests: an RPC server of ggml whose memory is counted and bounded.

    fake_gpu.py GGML_RPC_SERVER TOTAL_MIB USED_MIB [PORT]

`llama-server --rpc 127.0.0.1:PORT` sees one device of this size. USED_MIB is what other programs
hold. Each connection gets a ggml-rpc-server of its own, because that serves one client at a time.
All connections share the memory: an allocation that does not fit is refused, as a driver refuses
it, and what a connection held is free when it ends.

Prints {"port": N}. Answers each line of its input with the memory as JSON: `{}`, `{"used": MIB}`,
which changes what others hold, or `{"hidden": MIB}`, which is not told to llama-server. Ends with
its input. Runs with the standard library only.

It knows three commands of the RPC protocol 8 (ggml 0.27); all others are passed on as they are.
"""

import asyncio
import json
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

MIB = 1 << 20
ALLOCATE, FREE, MEMORY = 0, 4, 11  # of enum rpc_cmd in ggml-rpc.cpp
_REQUEST = struct.Struct("<BQ")  # command, size of the body
_SIZE = struct.Struct("<Q")  # in front of each answer
_PIECE = 1 << 18
_TRIES = 50
_PAUSE_S = 0.02

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(eq=False)
class Gpu:
    """The memory of the device, in bytes."""

    program: str
    total: int
    others: int  # held by other programs
    hidden: int = 0  # held too, but not said: as what a driver keeps for itself
    asked: int = 0  # allocations that ggml-rpc-server has not answered yet
    refused: int = 0  # number of allocations
    held: list[dict[int, int]] = field(default_factory=list)  # of each connection, by pointer

    @property
    def used(self) -> int:
        """What llama-servers hold."""
        return sum(sum(buffers.values()) for buffers in self.held)

    @property
    def free(self) -> int:
        return max(0, self.total - self.others - self.asked - self.used)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one llama-server until it or the ggml-rpc-server closes the connection."""
        connection = Connection(self, writer)
        self.held.append(connection.held)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await connection.serve(reader)
        finally:
            writer.close()
            self.held.remove(connection.held)
            await connection.close()


class Connection:
    """One llama-server, and the ggml-rpc-server that works for it from the first request on."""

    def __init__(self, gpu: Gpu, client: asyncio.StreamWriter) -> None:
        self.held: dict[int, int] = {}
        self._gpu = gpu
        self._client = client
        self._process: asyncio.subprocess.Process | None = None
        self._server: asyncio.StreamWriter | None = None
        self._answers: asyncio.Task[None] | None = None
        self._wanted = 0  # the size of the allocation that is not answered yet

    async def serve(self, reader: asyncio.StreamReader) -> None:
        while True:
            command, size = _REQUEST.unpack(await reader.readexactly(_REQUEST.size))
            if command == MEMORY:
                await reader.readexactly(size)
                self._client.write(struct.pack("<QQQ", 16, self._gpu.free, self._gpu.total))
            elif command in (ALLOCATE, FREE):
                body = await reader.readexactly(size)
                if self._allows(command, body):
                    (await self._started()).write(_REQUEST.pack(command, size) + body)
            else:
                server = await self._started()
                server.write(_REQUEST.pack(command, size))
                await _copy(reader, server, size)

    def _allows(self, command: int, body: bytes) -> bool:
        """Counts the request. False: it was refused."""
        if command == FREE:
            self.held.pop(_SIZE.unpack(body)[0], None)
            return True
        _device, wanted = struct.unpack("<IQ", body)
        if wanted > self._gpu.free - self._gpu.hidden:
            self._gpu.refused += 1
            self._client.write(struct.pack("<QQQ", 16, 0, 0))
            return False
        self._wanted = wanted
        self._gpu.asked += wanted
        return True

    async def _started(self) -> asyncio.StreamWriter:
        if self._server is None:
            self._process, (reader, self._server) = await started(self._gpu.program)
            self._answers = asyncio.create_task(self._pass_back(reader))
        return self._server

    async def _pass_back(self, reader: asyncio.StreamReader) -> None:
        """A client waits for each answer, so the first one after an allocation is its answer."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (size,) = _SIZE.unpack(await reader.readexactly(_SIZE.size))
                self._client.write(_SIZE.pack(size))
                if self._wanted:
                    body = await reader.readexactly(size)
                    self._book(*struct.unpack("<QQ", body))
                    self._client.write(body)
                else:
                    await _copy(reader, self._client, size)
        self._client.close()

    def _book(self, pointer: int, size: int) -> None:
        if pointer:
            self.held[pointer] = max(self._wanted, size)
        self._gpu.asked -= self._wanted
        self._wanted = 0

    async def close(self) -> None:
        self._gpu.asked -= self._wanted
        if self._process is not None and self._answers is not None and self._server is not None:
            self._answers.cancel()
            self._server.close()
            self._process.terminate()
            await self._process.wait()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> None:
    while size:
        piece = await reader.readexactly(min(size, _PIECE))
        size -= len(piece)
        writer.write(piece)
        await writer.drain()


async def started(program: str) -> tuple[asyncio.subprocess.Process, Streams]:
    """Returns a ggml-rpc-server and a connection to it.

    It takes no port 0: another program may take the free one first, and it ends.
    """
    for _ in range(_TRIES):
        port = _free_port()
        process = await asyncio.create_subprocess_exec(
            *(program, "-H", "127.0.0.1", "-p", str(port)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        while process.returncode is None:
            try:
                return process, await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(_PAUSE_S)
    raise SystemExit(f"cannot start {program}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def commands(gpu: Gpu, say: Callable[[object], None]) -> None:
    """Answers the lines of the standard input until it ends."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    while line := await reader.readline():
        asked = json.loads(line)
        gpu.others = asked.get("used", gpu.others // MIB) * MIB
        gpu.hidden = asked.get("hidden", gpu.hidden // MIB) * MIB
        say({"total": gpu.total, "others": gpu.others, "used": gpu.used, "free": gpu.free,
             "refused": gpu.refused})  # fmt: skip


def _say(value: object) -> None:
    sys.stdout.write(f"{json.dumps(value)}\n")
    sys.stdout.flush()


async def main(program: str, total: str, used: str, port: str = "0") -> None:
    gpu = Gpu(program, int(total) * MIB, int(used) * MIB)
    server = await asyncio.start_server(gpu.serve, "127.0.0.1", int(port))
    _say({"port": server.sockets[0].getsockname()[1]})
    await commands(gpu, _say)
    server.close()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

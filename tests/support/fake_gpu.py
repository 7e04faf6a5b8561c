"""A GPU of any size, for tests: an RPC server of ggml whose memory is counted and bounded.

    fake_gpu.py GGML_RPC_SERVER TOTAL_MIB USED_MIB [PORT [hollow]]

`llama-server --rpc 127.0.0.1:PORT` sees one device of this size. USED_MIB is what other programs
hold. Each connection gets a ggml-rpc-server of its own, because that serves one client at a time.
All connections share the memory: an allocation that does not fit is refused, as a driver refuses
it, and what a connection held is free when it ends.

A hollow one only counts: it has no memory and computes nothing, so it holds weights of any size,
and each answer of the model is noise.

It tells what each buffer is used for. The protocol does not say so, but llama-server clears caches
and states of a context, and writes weights by their names; what is computed with is neither: the
inputs that are copied to it have a `#` in their names.

Prints {"port": N}. Answers each line of its input with the memory as JSON: `{}`, `{"used": MIB}`,
which changes what others hold, `{"hidden": MIB}`, which is not told to llama-server, or
`{"keeps": true}`: from then on memory that is freed does not come back, until it is told otherwise.
Ends with its input. Runs with the standard library only.

Speaks the RPC protocol 8 (ggml 0.27), and passes on what it need not know.
"""

import asyncio
import json
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address

MIB = 1 << 20
KINDS = ("weights", "context", "compute")
_REQUEST = struct.Struct("<BQ")  # command, size of the body
_SIZE = struct.Struct("<Q")  # in front of each answer
_TENSOR = struct.Struct("<12xQ208x64s4x")  # buffer and name of an rpc_tensor
_PIECE = 1 << 18
_TRIES = 50
_PAUSE_S = 0.02

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Command(IntEnum):
    """Of enum rpc_cmd in ggml-rpc.cpp, those that are read here."""

    ALLOCATE = 0
    BASE = 3
    FREE = 4
    CLEAR = 5
    WRITE = 6
    WRITE_KNOWN = 7  # by a hash, if the server has the data
    READ = 8
    COPY = 9
    COMPUTE = 10
    MEMORY = 11
    INITIALIZE = 12
    RECOMPUTE = 16


# How much of a request is read here; only WRITE has more.
_READ = {
    Command.ALLOCATE: 12,
    Command.BASE: 8,
    Command.FREE: 8,
    Command.CLEAR: 9,
    Command.WRITE: _TENSOR.size,
    Command.WRITE_KNOWN: _TENSOR.size,
    Command.READ: _TENSOR.size + 16,
}


@dataclass(eq=False, slots=True)
class Buffer:
    """One allocation of a llama-server."""

    size: int
    kind: str = "compute"


@dataclass(eq=False)
class Gpu:
    """The memory of the device, in bytes."""

    program: str
    total: int
    others: int  # held by other programs
    is_hollow: bool = False
    hidden: int = 0  # held too, but not said: as what a driver keeps for itself
    asked: int = 0  # allocations that ggml-rpc-server has not answered yet
    refused: int = 0  # number of allocations
    keeps: bool = False  # what ended connections held, as a driver does for a while
    kept: int = 0
    held: list[dict[int, Buffer]] = field(default_factory=list)  # of each connection, by pointer

    def used_for(self, *kinds: str) -> int:
        """What llama-servers hold of these kinds."""
        buffers = (buffer for held in self.held for buffer in held.values())
        return sum(buffer.size for buffer in buffers if buffer.kind in kinds)

    @property
    def free(self) -> int:
        return max(0, self.total - self.others - self.asked - self.kept - self.used_for(*KINDS))

    def take_back(self, buffers: Iterable[Buffer]) -> None:
        """They are freed now, or later if it keeps them."""
        if self.keeps:
            self.kept += sum(buffer.size for buffer in buffers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one llama-server until it or the ggml-rpc-server closes the connection."""
        connection = Connection(self, writer)
        self.held.append(connection.held)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await connection.serve(reader)
        finally:
            writer.close()
            self.take_back(connection.held.values())
            # By identity: those of connections that hold nothing yet are equal.
            self.held = [held for held in self.held if held is not connection.held]
            await connection.close()


class Connection:
    """One llama-server, and the ggml-rpc-server that works for it from the first request on."""

    def __init__(self, gpu: Gpu, client: asyncio.StreamWriter) -> None:
        self.held: dict[int, Buffer] = {}
        self._gpu = gpu
        self._client = client
        self._process: asyncio.subprocess.Process | None = None
        self._server: asyncio.StreamWriter | None = None
        self._answers: asyncio.Task[None] | None = None
        self._wanted = 0  # the size of the allocation that is not answered yet
        self._next = 1 << 40  # where a hollow one has its next buffer

    async def serve(self, reader: asyncio.StreamReader) -> None:
        while True:
            command, size = _REQUEST.unpack(await reader.readexactly(_REQUEST.size))
            body = await reader.readexactly(min(size, _READ.get(command, 0)))
            answer = self._answer(command, body)
            if answer is None:
                server = await self._started()
                server.write(_REQUEST.pack(command, size) + body)
                await _copy(reader, server, size - len(body))
            else:
                await _copy(reader, None, size - len(body))
                self._client.write(answer)

    def _answer(self, command: int, body: bytes) -> bytes | None:
        """Counts the request. Returns what the client gets; None: the ggml-rpc-server answers."""
        match command:
            case Command.MEMORY:
                return _answered("<QQ", self._gpu.free, self._gpu.total)
            case Command.ALLOCATE:
                if not self._allows(*struct.unpack("<4xQ", body)):
                    return _answered("<QQ", 0, 0)
            case Command.FREE:
                freed = self.held.pop(_SIZE.unpack(body)[0], None)
                self._gpu.take_back([freed] if freed else [])
            case Command.CLEAR:
                self._note(_SIZE.unpack_from(body)[0], "context")
            case Command.WRITE | Command.WRITE_KNOWN:
                pointer, name = _TENSOR.unpack(body)
                if b"#" not in name:
                    self._note(pointer, "weights")
            case _:
                pass
        return self._hollow_answer(command, body) if self._gpu.is_hollow else None

    def _allows(self, wanted: int) -> bool:
        if wanted > self._gpu.free - self._gpu.hidden:
            self._gpu.refused += 1
            return False
        self._wanted = wanted
        self._gpu.asked += wanted
        return True

    def _note(self, pointer: int, kind: str) -> None:
        """The first use decides: a state that is restored is written to as well."""
        buffer = self.held.get(pointer)
        if buffer is not None and buffer.kind == "compute":
            buffer.kind = kind

    def _hollow_answer(self, command: int, body: bytes) -> bytes | None:
        match command:
            case Command.ALLOCATE:
                pointer, size = self._next, self._wanted
                self._next += -(-size // MIB + 1) * MIB
                self._book(pointer, size)
                return _answered("<QQ", pointer, size)
            case Command.BASE:
                return _answered("<Q", *_SIZE.unpack(body))
            case Command.WRITE_KNOWN | Command.COPY:
                return _answered("<B", 1)  # it is there
            case Command.READ:
                return _answered(f"<{_SIZE.unpack(body[-8:])[0]}x")
            case (
                Command.FREE | Command.CLEAR | Command.WRITE | Command.INITIALIZE
                | Command.COMPUTE | Command.RECOMPUTE
            ):  # fmt: skip
                return b""
            case _:
                return None

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
            self.held[pointer] = Buffer(max(self._wanted, size))
        self._gpu.asked -= self._wanted
        self._wanted = 0

    async def close(self) -> None:
        self._gpu.asked -= self._wanted
        if self._process is not None and self._answers is not None and self._server is not None:
            self._answers.cancel()
            self._server.close()
            self._process.terminate()
            await self._process.wait()


def _answered(layout: str, *values: int) -> bytes:
    body = struct.pack(layout, *values)
    return _SIZE.pack(len(body)) + body


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None, size: int
) -> None:
    """Without a writer, drops what it reads."""
    while size:
        piece = await reader.readexactly(min(size, _PIECE))
        size -= len(piece)
        if writer is not None:
            writer.write(piece)
            await writer.drain()


async def started(program: str) -> tuple[asyncio.subprocess.Process, Streams]:
    """Returns a ggml-rpc-server and a connection to it.

    It takes no port 0, and another program may take the free one first: it ends then, and the
    connection may be to the other one. So it has an address where nothing else listens.
    """
    host = own_address(os.getpid())
    for _ in range(_TRIES):
        port = _free_port(host)
        process = await asyncio.create_subprocess_exec(
            *(program, "-H", host, "-p", str(port)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        while process.returncode is None:
            try:
                return process, await asyncio.open_connection(host, port)
            except OSError:
                await asyncio.sleep(_PAUSE_S)
    raise SystemExit(f"cannot start {program}")


def own_address(process: int) -> str:
    """A loopback address for this process id alone: 127.64.0.0 and the id, of 22 bits."""
    return str(IPv4Address(0x7F40_0000 + process))


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
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
        gpu.keeps = asked.get("keeps", gpu.keeps)
        gpu.kept *= gpu.keeps
        say({"total": gpu.total, "others": gpu.others, "used": gpu.used_for(*KINDS),
             "free": gpu.free, "refused": gpu.refused,
             **{kind: gpu.used_for(kind) for kind in KINDS}})  # fmt: skip


def _say(value: object) -> None:
    sys.stdout.write(f"{json.dumps(value)}\n")
    sys.stdout.flush()


async def main(program: str, total: str, used: str, port: str = "0", *hollow: str) -> None:
    gpu = Gpu(program, int(total) * MIB, int(used) * MIB, bool(hollow))
    server = await asyncio.start_server(gpu.serve, "127.0.0.1", int(port))
    _say({"port": server.sockets[0].getsockname()[1]})
    await commands(gpu, _say)
    server.close()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""Offers the GPUs of this machine over llama.cpp's RPC: `serve_rpc.py [PROGRAM]`.

The sockets come from systemd (magi-rpc.socket). For each connection PROGRAM, llama.cpp's own RPC
server, runs on loopback, in the sandbox of magi-rpc.service, through exec_model.py like a model's
llama-server, and this script passes the bytes on. That server answers one client at a time: while a
model uses it, a client that asks what memory is free would wait until the model stops.

The protocol has neither a password nor encryption, so a socket at an address that can be reached
from the internet is refused. The unit has a network namespace of its own: these sockets, which
systemd opened outside of it, are all that a server can be reached by, and it can reach nothing.

Runs as `python3 -I -S` with the standard library only. Exit status: 78 (EX_CONFIG) where it cannot
serve before its configuration is another one.
"""

import ipaddress
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Final

BAD_CONFIGURATION: Final = 78
MOST: Final = 64  # connections at a time
MOST_SERVERS: Final = 2 * MOST  # with those that wait for a client, or do not end
IDLE_S: Final = 5.0
WARNING: Final = (
    'llama.cpp says of it: "fragile and insecure. Never run the RPC server on an open network or '
    'in a sensitive environment!"'
)
# As magid.config.addresses has them for RPC servers that magid uses.
PRIVATE: Final = tuple(
    map(
        ipaddress.IPv4Network,
        ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
         "100.64.0.0/10"),
    )
)  # fmt: skip
_FIRST_FD: Final = 3  # sd_listen_fds(3)
_LOOPBACK: Final = "127.0.0.1"
_PORTS: Final = (20_000, 30_000)
_SILENT_S: Final = 10.0  # llama.cpp's clients speak first, and at once
_START_S: Final = 60.0  # a driver takes seconds to wake a GPU
_PAUSE_S: Final = 0.01
_REST_S: Final = 1.0  # after a connection that could not be accepted
_END_S: Final = 10.0
_PIECE: Final = 1 << 18
_GATE: Final = Path(__file__).resolve().with_name("exec_model.py")


def main(arguments: Sequence[str]) -> int:
    sockets = received(os.environ, os.getpid())
    if not sockets:
        return _refuse("systemd gave no socket: start magi-rpc.service, or see magi-rpc.socket")
    if why := next(filter(None, map(why_not, sockets)), ""):
        return _refuse(why)
    program = Path("".join(arguments))
    if not program.is_absolute() or not os.access(program, os.X_OK):
        return _refuse("no RPC server of llama.cpp was found; the line above says where it belongs")
    RpcFront(program).serve(sockets)
    return 0


def received(env: Mapping[str, str], pid: int) -> list[socket.socket]:
    """Returns the sockets that systemd passed to this process."""
    number = int(env.get("LISTEN_FDS", "0")) if env.get("LISTEN_PID") == str(pid) else 0
    return [socket.socket(fileno=fd) for fd in range(_FIRST_FD, _FIRST_FD + number)]


def why_not(listening: socket.socket) -> str:
    """Returns why the socket's address may not be served; "" if it may."""
    if listening.family != socket.AF_INET:
        return "llama.cpp's RPC knows IPv4 alone: give magi-rpc.socket such an address"
    host, port = listening.getsockname()
    if any(ipaddress.IPv4Address(host) in network for network in PRIVATE):
        return ""
    return (
        f"{host}:{port} is no address of a private network, and the protocol has neither a "
        f"password nor encryption. {WARNING} Set another ListenStream= with `systemctl edit "
        "magi-rpc.socket`"
    )


def _refuse(why: str) -> int:
    sys.stderr.write(f"error: cannot serve llama.cpp's RPC: {why}\n")
    return BAD_CONFIGURATION


class RpcServer:
    """A process of llama.cpp's RPC server, for one client after another."""

    def __init__(self, program: Path, port: int) -> None:
        """Starts it; `connect` waits until it listens. Raises OSError."""
        argv = [sys.executable, "-I", "-S", str(_GATE), _checked(program), "--"]
        argv += [str(program), "--host", _LOOPBACK, "--port", str(port)]
        self.port = port
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.wanted = threading.Event()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def connect(self) -> socket.socket:
        """Returns a connection to it. Raises OSError."""
        end = time.monotonic() + _START_S
        while self.is_alive and time.monotonic() < end:
            with suppress(ConnectionRefusedError):
                server = socket.create_connection((_LOOPBACK, self.port))
                server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return server
            time.sleep(_PAUSE_S)
        how = "did not listen in time" if self.is_alive else "has ended"
        raise OSError(0, f"llama.cpp's RPC server {how}")

    def end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class RpcFront:
    """Accepts connections, and gives each an RPC server of its own.

    A llama-server that lists its devices opens several connections in a row, so a server is kept
    for IDLE_S for the next one: to start it takes as long as its drivers do.
    """

    def __init__(
        self,
        program: Path,
        *,
        silent_s: float = _SILENT_S,
        most_servers: int = MOST_SERVERS,
        ports: range = range(*_PORTS),
    ) -> None:
        """There must be more `ports` than servers."""
        self._program, self._silent_s, self._most_servers = program, silent_s, most_servers
        self._room = threading.Semaphore(MOST)
        self._ports = cycle(ports)
        self._lock = threading.Lock()
        self._used: set[int] = set()  # the ports of servers that have not ended
        self._idle: list[RpcServer] = []

    def serve(self, sockets: Sequence[socket.socket]) -> None:
        """Blocks until the process ends."""
        accepting = [threading.Thread(target=self._accept, args=(one,)) for one in sockets]
        for thread in accepting:
            thread.start()
        for thread in accepting:
            thread.join()

    def _accept(self, listening: socket.socket) -> None:
        listening.setblocking(True)
        while True:
            self._room.acquire()
            try:
                client, (host, _) = listening.accept()
            except OSError as error:  # of one connection, or no descriptor is left
                self._room.release()
                _say(f"cannot accept a connection: {error.strerror}")
                time.sleep(_REST_S)
                continue
            try:
                threading.Thread(target=self._answer, args=(client, host), daemon=True).start()
            except RuntimeError as error:  # the limit of tasks is used up
                client.close()
                self._room.release()
                _say(f"cannot answer {host}: {error}")

    def _answer(self, client: socket.socket, host: str) -> None:
        server, is_of_use = None, False
        try:
            # A client that only checks that the port is open sends nothing.
            client.settimeout(self._silent_s)
            if client.recv(1, socket.MSG_PEEK):
                client.settimeout(None)
                server = self._server()
                with server.connect() as connection:
                    is_of_use = True
                    relay(client, connection)
        except (OSError, RuntimeError) as error:
            _say(f"the connection from {host} has failed: {getattr(error, 'strerror', 0) or error}")
        finally:
            client.close()
            self._room.release()
        if server is not None:
            self._keep(server, IDLE_S if is_of_use else 0)

    def _server(self) -> RpcServer:
        """Returns one that nothing uses, else a new one. Raises OSError."""
        with self._lock:
            while self._idle:
                server = self._idle.pop()
                if server.is_alive:
                    server.wanted.set()
                    return server
            if len(self._used) >= self._most_servers:
                raise OSError(0, "too many of llama.cpp's RPC servers have not ended")
            port = next(port for port in self._ports if port not in self._used)
            self._used.add(port)
        try:
            return RpcServer(self._program, port)
        except BaseException:
            self._used.discard(port)
            raise

    def _keep(self, server: RpcServer, seconds: float) -> None:
        """Waits for the server's next client; ends it if none comes."""
        server.wanted.clear()
        with self._lock:
            is_kept = server.is_alive and seconds > 0
            if is_kept:
                self._idle.append(server)
        if is_kept:
            server.wanted.wait(seconds)
        with self._lock:
            is_over = not server.wanted.is_set()
            if server in self._idle:
                self._idle.remove(server)
        if is_over:
            server.end()
            self._used.discard(server.port)


def _checked(program: Path) -> str:
    """Returns the file in the words of exec_model.py, which refuses another one at its path."""
    real = program.resolve()
    status = real.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, f"{real} is no regular file")
    return f"{status.st_dev}:{status.st_ino}:{real}"


def relay(client: socket.socket, server: socket.socket) -> None:
    """Passes bytes on both ways; returns when the server has ended the connection."""
    back = threading.Thread(target=_answers, args=(server, client), daemon=True)
    back.start()
    _copy(client, server)
    with suppress(OSError):
        server.shutdown(socket.SHUT_WR)  # so it ends its side too
    back.join()


def _answers(server: socket.socket, client: socket.socket) -> None:
    """A client whose server has ended is told at once."""
    _copy(server, client)
    for one in (client, server):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Passes on all bytes until the source ends, or a connection breaks."""
    buffer = memoryview(bytearray(_PIECE))
    with suppress(OSError):
        while size := source.recv_into(buffer):
            target.sendall(buffer[:size])


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

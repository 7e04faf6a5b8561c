"""serve_rpc.py in front of a real RPC server of llama.cpp, with real llama-servers as clients."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from magid.config import addresses
from magid.standalone import serve_rpc
from tests.support.deadlines import DEADLINE_S

SCRIPT = Path(serve_rpc.__file__)
IP_FREEBIND = 15  # <linux/in.h>: an address that this machine does not have


def listening(host: str, port: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    sock.bind((host, port))
    sock.listen()
    return sock


def command(sock: socket.socket, program: str) -> "subprocess.Popen[str]":
    """As systemd starts it: the socket is descriptor 3."""
    script = f'exec 3<&{sock.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
    argv = [sys.executable, "-I", "-S", str(SCRIPT), program]
    return subprocess.Popen(
        ["bash", "-c", script, "bash", *argv],
        pass_fds=[sock.fileno()],
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def serving(program: Path) -> Iterator[tuple[psutil.Process, int]]:
    """The process and its port."""
    with listening("127.0.0.1") as sock, command(sock, str(program)) as process:
        front = psutil.Process(process.pid)
        try:
            yield front, sock.getsockname()[1]
        finally:
            for child in front.children(recursive=True):
                child.kill()
            process.kill()


@pytest.fixture
def front(llama_server_with_rpc: Path) -> Iterator[tuple[psutil.Process, int]]:
    with serving(llama_server_with_rpc.with_name("ggml-rpc-server")) as one:
        yield one


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def devices(llama_server: Path, port: int) -> str:
    done = subprocess.run(
        [str(llama_server), "--rpc", f"127.0.0.1:{port}", "--list-devices"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    return done.stdout


def test_clients_at_the_same_time(
    front: tuple[psutil.Process, int], llama_server_with_rpc: Path
) -> None:
    """One holds its connection, as a model does, and another one is answered meanwhile."""
    process, port = front
    with socket.create_connection(("127.0.0.1", port)) as held:
        held.sendall(b"\x0e")  # the first byte of a client's first command
        until(lambda: len(process.children()) == 1, "an RPC server for the client")
        assert f"RPC0: 127.0.0.1:{port} (" in devices(llama_server_with_rpc, port)
        until(lambda: len(process.children()) == 1, "the end of the server of the list")
    until(lambda: not process.children(), "the end of the server of a client that has gone")


def test_a_client_that_only_looks_starts_nothing(front: tuple[psutil.Process, int]) -> None:
    process, port = front
    with socket.create_connection(("127.0.0.1", port)):
        pass
    with socket.create_connection(("127.0.0.1", port)) as silent:
        until(lambda: process.num_threads() > 2, "the connection")
        assert not process.children()
        silent.shutdown(socket.SHUT_WR)
        assert silent.recv(1) == b""


def test_a_server_that_ends_takes_its_client_along(front: tuple[psutil.Process, int]) -> None:
    process, port = front
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(DEADLINE_S)
        client.sendall(b"\x0e")
        until(lambda: len(process.children()) == 1, "an RPC server for the client")
        (server,) = process.children()
        until(lambda: bool(server.net_connections("tcp")), "the server listens")
        server.kill()
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_a_program_that_ends_at_once(tmp_path: Path) -> None:
    program = tmp_path / "rpc-server"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    with serving(program) as (_, port), socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(DEADLINE_S)
        client.sendall(b"\x0e")
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""


@pytest.fixture
def idle_program(tmp_path: Path) -> Path:
    """A program that runs and never listens."""
    program = tmp_path / "rpc-server"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    return program


def test_a_client_that_says_nothing_holds_no_place(idle_program: Path) -> None:
    front = serve_rpc.RpcFront(idle_program, silent_s=0.01)
    silent, client = socket.socketpair()
    with silent:
        silent.settimeout(DEADLINE_S)
        threading.Thread(target=front._answer, args=(client, "silent"), daemon=True).start()
        assert silent.recv(1) == b""


def test_servers_that_run_are_bounded_and_keep_their_ports(idle_program: Path) -> None:
    front = serve_rpc.RpcFront(idle_program, most_servers=2, ports=range(20_000, 20_003))
    held = front._server()
    try:
        for _ in range(4):
            other = front._server()
            try:
                assert other.port != held.port
                with pytest.raises(OSError, match="have not ended"):
                    front._server()
            finally:
                front._keep(other, 0)
            assert not other.is_alive
    finally:
        front._keep(held, 0)


@pytest.mark.parametrize("host", ["8.8.8.8", "0.0.0.0", "172.32.0.1"])
def test_addresses_of_the_internet_are_refused(host: str) -> None:
    with listening(host) as sock, command(sock, sys.executable) as process:
        _, said = process.communicate(timeout=DEADLINE_S)
        port = sock.getsockname()[1]
    assert process.returncode == 78
    assert said.startswith(f"error: cannot serve llama.cpp's RPC: {host}:{port} is no address of a")
    assert "Never run the RPC server on an open network" in said


@pytest.mark.parametrize("program", ["", "relative", "/nowhere/rpc-server"])
def test_without_a_program(program: str) -> None:
    with listening("10.0.0.2") as sock, command(sock, program) as process:
        _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 78
    assert "no RPC server of llama.cpp was found" in said


def test_without_a_socket() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), sys.executable],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, "systemd gave no socket" in done.stderr) == (78, True)


def test_one_list_of_private_networks() -> None:
    """What this offers is what magid on another machine would use."""
    assert addresses.PRIVATE == serve_rpc.PRIVATE

"""A key goes to the program of the right user or to nobody, whoever comes and goes on the port."""

import ast
import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from magid.errors import ServerUnreachable
from magid.gateway.proxy.upstream import ConnectionPool
from magid.gateway.routing.fleet import Backend, ServerProperties
from magid.host.ports import HostPort
from magid.llama.client import get_json, get_metrics, why_foreign
from magid.llama.connection import Watch
from magid.standalone import wait_ready
from tests.support.impostor_server import NOBODY, Sly, as_user

KEY = "the-key-of-this-server"
PACKAGE = Path(__file__).parents[2] / "magid"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
SWAPS = 60


OURS = os.geteuid()


class Churn:
    """A port that is now the server's and now the thief's, as fast as they can take it.

    Not one that the kernel gives to clients: some other program's connection may take that one
    between two turns.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.heard: dict[int, bytes] = {OURS: b"", NOBODY: b""}
        with as_user(NOBODY):  # of the whole process: so before anything else goes on
            theirs = [socket.socket() for _ in range(SWAPS)]
        ours = [socket.socket() for _ in range(SWAPS)]
        self._turns = [(uid, s) for pair in zip(ours, theirs, strict=True)
                       for uid, s in zip((OURS, NOBODY), pair, strict=True)]  # fmt: skip
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._thread.join(600)
            for _, listener in self._turns:
                listener.close()

    def _run(self) -> None:
        for uid, listener in self._turns:
            with listener:
                self._serve(uid, listener)
                # Not only closed: a child between fork and exec has it open for a moment longer,
                # and while anybody listens there, the next one cannot.
                listener.shutdown(socket.SHUT_RDWR)

    def _serve(self, uid: int, listener: socket.socket) -> None:
        """Two connections, or none for a moment, and away."""
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(8)
        listener.settimeout(0.02)
        for _ in range(2):
            try:
                client, _ = listener.accept()
            except TimeoutError:
                return
            self._answer(client, uid)

    def _answer(self, client: socket.socket, uid: int) -> None:
        with client:
            client.settimeout(0.2)
            try:
                self.heard[uid] += client.recv(65_536)
                client.sendall(ANSWER)
            except OSError:
                return


async def ask_json(port: int, uid: int) -> None:
    await get_json(HostPort("127.0.0.1", port), "/props", key=KEY, uid=uid, timeout_s=5)


async def ask_metrics(port: int, uid: int) -> None:
    await get_metrics(HostPort("127.0.0.1", port), key=KEY, uid=uid, timeout_s=5)


async def ask_whether_ours(port: int, uid: int) -> None:
    await why_foreign(HostPort("127.0.0.1", port), KEY, "demo", uid=uid, timeout_s=5)


@pytest.mark.parametrize("ask", [ask_json, ask_metrics])
async def test_under_churn_the_thief_hears_no_key(
    ask: Callable[[int, int], asyncio.Future[None]], free_ports: Callable[[int], int]
) -> None:
    churn = Churn(free_ports(1))
    with churn.under_way():
        while churn.goes_on:
            try:
                await ask(churn.port, OURS)
            except ServerUnreachable:
                await asyncio.sleep(0)
    assert KEY.encode() in churn.heard[OURS]
    assert KEY.encode() not in churn.heard[NOBODY]


@pytest.mark.parametrize("ask", [ask_json, ask_metrics, ask_whether_ours])
async def test_a_thief_hears_nothing_at_all(
    ask: Callable[[int, int], asyncio.Future[None]], free_port: Callable[[], int]
) -> None:
    port = free_port()
    with (
        Sly(port, "demo", NOBODY) as thief,
        pytest.raises(ServerUnreachable, match=f"another program has port {port}"),
    ):
        await ask(port, OURS)
    assert thief.heard == b""


def test_ready_tells_a_thief_under_churn_nothing(free_ports: Callable[[int], int]) -> None:
    """In the unit: whoever has the port for a moment ends the start, and has no key."""
    churn = Churn(free_ports(1))
    process = os.pidfd_open(os.getpid())
    try:
        with churn.under_way():
            while churn.goes_on:
                server = wait_ready.ServerAddress("127.0.0.1", churn.port, KEY)
                with pytest.raises(wait_ready.ServerNotReady):
                    wait_ready.wait(process, server, 1, 0.01)
    finally:
        os.close(process)
    assert KEY.encode() not in churn.heard[NOBODY]


async def test_who_took_the_port_between_look_and_connection_is_seen(
    free_port: Callable[[], int],
) -> None:
    """Also by the right user: what has been there for a moment in between is not known."""
    port = free_port()
    watch = Watch("127.0.0.1", port, OURS)
    with socket.create_server(("127.0.0.1", port)):
        watch.check()
        with socket.create_connection(("127.0.0.1", port)) as line:
            assert watch.has_reached(line.getpeername())
    with (
        socket.create_server(("127.0.0.1", port)),
        socket.create_connection(("127.0.0.1", port)) as line,
    ):
        assert not watch.has_reached(line.getpeername())
        assert watch.has_reached(line.getpeername())  # known from here on: for the next one
    with pytest.raises(ConnectionResetError):
        watch.has_reached(None)


async def test_a_server_by_name_is_reached(free_ports: Callable[[int], int]) -> None:
    churn = Churn(free_ports(1))
    with churn.under_way():
        while churn.goes_on:
            try:
                await get_json(
                    HostPort("localhost", churn.port), "/", key=KEY, uid=OURS, timeout_s=5
                )
            except ServerUnreachable:
                await asyncio.sleep(0)
    assert KEY.encode() in churn.heard[OURS]
    assert KEY.encode() not in churn.heard[NOBODY]


async def test_the_gateways_connections_go_the_same_way(free_port: Callable[[], int]) -> None:
    with Sly(port := free_port(), "demo", NOBODY) as thief:
        backend = Backend(
            port, "demo", 0, HostPort("127.0.0.1", port), KEY, "p", ServerProperties(1), uid=OURS
        )
        pool = ConnectionPool(backend)
        with pytest.raises(ConnectionAbortedError, match="another program"):
            await pool.connect()
        pool.close()
    assert thief.heard == b""


# -- nothing else does it ------------------------------------------------------------------------

MAKERS = {
    "llama/connection.py",  # for all of magid
    "standalone/wait_ready.py",  # alone in the unit; see above
    "cli/client.py",  # magictl, with a person's token, to magid
    "library/transfer/http_client.py",  # a download, with the hub's token, to its origin alone
}


def credentials_in(tree: ast.AST) -> Iterator[str]:
    """What puts a credential together: text with "Bearer" that has something put into it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr | ast.BinOp):
            texts = [c.value for c in ast.walk(node) if isinstance(c, ast.Constant)]
            yield from (str(text) for text in texts if "Bearer" in str(text))
        elif isinstance(node, ast.Dict):
            keys = [k.value for k in node.keys if isinstance(k, ast.Constant)]
            yield from (str(key) for key in keys if str(key).lower() == "authorization")


def test_credentials_are_made_in_one_place() -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if list(credentials_in(ast.parse(path.read_text())))
    }
    assert found == MAKERS


def test_whoever_shows_a_key_says_whose_it_is() -> None:
    """Calls that have a key have a uid beside it, or say that there is no key."""
    without = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func).rpartition(".")[2]
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if "uid" in words:
                continue
            shows = words.get("key", "None") != "None" and name in ("get_json", "_ask")
            about = name in ("get_metrics", "why_foreign")
            if shows or about:
                without.append(f"{path.name}:{node.lineno}")
    assert without == []

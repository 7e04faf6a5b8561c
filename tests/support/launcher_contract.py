"""What every launcher promises, whatever runs the servers: one set of tests for all of them.

A test class inherits `LauncherContract` and gives two fixtures: `launcher`, open and impatient
(restarts after `RESTART_LIMIT` tries at most, the first within a tenth of a second or so), and
`program`, the llama-server it runs. Everything else is real: servers, models, ports, signals.
"""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from magid.errors import InvalidInput, NotFound
from magid.gpus.listing import devices_in
from magid.gpus.memory_report import report_in
from magid.host.ports import HostPort
from magid.llama.client import Health, check_health, get_json, why_foreign
from magid.llama.spec import ServerSpec
from magid.servers.backend import ObservedServer, ServerBackend, ServerState
from tests.support.deadlines import PATIENCE_S

RESTART_LIMIT = 2

Specs = Callable[..., ServerSpec]


class Witness:
    """Writes down every change that a launcher tells of."""

    def __init__(self, launcher: ServerBackend) -> None:
        self.seen: list[ObservedServer] = []
        self._more = asyncio.Event()
        self.leave = launcher.subscribe(self._hear)

    def _hear(self, server: ObservedServer) -> None:
        self.seen.append(server)
        self._more.set()

    def states(self, port: int) -> list[ServerState]:
        """The states of one server in order, repetitions left out."""
        states = [server.state for server in self.seen if server.port == port]
        return [state for at, state in enumerate(states) if at == 0 or states[at - 1] != state]

    async def until(self, state: ServerState, *, since: int = 0) -> ObservedServer:
        """The first change to `state` among those from number `since` on."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for server in self.seen[since:]:
                    if server.state is state:
                        return server
                self._more.clear()
                await self._more.wait()


async def settle(launcher: ServerBackend, port: int) -> ObservedServer:
    async with asyncio.timeout(PATIENCE_S):
        return await launcher.settled(port)


async def started(launcher: ServerBackend, spec: ServerSpec) -> ObservedServer:
    """Start it and wait; it must become ready."""
    await launcher.start(spec)
    server = await settle(launcher, spec.port)
    assert server.state is ServerState.READY, server.reason
    return server


def pid_of(launcher: ServerBackend, port: int) -> int:
    pid = launcher.observed()[port].pid
    assert pid is not None
    return pid


@asynccontextmanager
async def stranger_on(port: int) -> AsyncIterator[None]:
    """Something that is no llama-server listens on the port: this very process."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    async with server:
        yield


@pytest.fixture
def specs(chat_model: Path, free_port: Callable[[], int]) -> Specs:
    """Makes specs of the shared model, each on a free port of its own."""

    def make(**changes: object) -> ServerSpec:
        fields: dict[str, object] = {
            "model_id": "demo_tiny",
            "instance": 0,
            "port": free_port(),
            "host": "127.0.0.1",
            "model_path": str(chat_model),
            "ctx_size": 256,
            "n_threads": 1,
            "parallel": 1,
        }
        return ServerSpec(**(fields | changes))  # type: ignore[arg-type]  # a table of test values

    return make


@pytest.fixture
def broken_model(chat_model: Path, tmp_path: Path) -> Path:
    """The shared model without its end."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(chat_model.read_bytes()[:-100])
    return broken


class LauncherContract:
    """Inherit and give the fixtures `launcher` and `program`."""

    async def test_a_good_start(self, launcher: ServerBackend, specs: Specs) -> None:
        spec, witness = specs(), Witness(launcher)
        await launcher.start(spec)
        made = launcher.observed()[spec.port]
        assert made.state.is_running
        assert made.pid
        server = await settle(launcher, spec.port)
        states = [state for state in witness.states(spec.port) if state is not ServerState.LOADING]
        assert states == [ServerState.STARTING, ServerState.READY], states
        assert (server.model_id, server.instance, server.spec_hash) == ("demo_tiny", 0, spec.hash)
        assert (server.reason, server.restarts, server.host) == ("", 0, "127.0.0.1")
        assert server.invocation_id
        assert server.started_at is not None
        assert server.ready_at is not None
        assert server.started_at <= server.ready_at

    async def test_only_the_key_opens_it(self, launcher: ServerBackend, specs: Specs) -> None:
        spec = specs()
        await started(launcher, spec)
        endpoint, key = HostPort(spec.host, spec.port), launcher.api_key(spec.port)
        assert key
        assert await why_foreign(endpoint, key, spec.model_id) is None
        status, _ = await get_json(endpoint, "/v1/models", key=None, timeout_s=5)
        assert status == 401
        command = psutil.Process(pid_of(launcher, spec.port)).cmdline()
        assert key not in " ".join(command)
        assert command[-5:] == (await launcher.command(spec))[-5:]

    async def test_stop(self, launcher: ServerBackend, specs: Specs) -> None:
        spec, witness = specs(), Witness(launcher)
        pid = (await started(launcher, spec)).pid
        assert pid
        await launcher.stop(spec.port)
        assert not psutil.pid_exists(pid)
        server = launcher.observed()[spec.port]
        assert (server.state, server.pid, server.reason) == (ServerState.STOPPED, None, "")
        assert witness.states(spec.port)[-2:] == [ServerState.STOPPING, ServerState.STOPPED]
        assert launcher.api_key(spec.port) is None
        await launcher.stop(spec.port)
        assert launcher.observed()[spec.port] == server

    async def test_stopping_what_never_was(
        self, launcher: ServerBackend, free_port: Callable[[], int]
    ) -> None:
        await launcher.stop(free_port())
        assert launcher.observed() == {}

    async def test_a_crash_is_made_good(self, launcher: ServerBackend, specs: Specs) -> None:
        spec, witness = specs(), Witness(launcher)
        first = await started(launcher, spec)
        since = len(witness.seen)
        os.kill(pid_of(launcher, spec.port), signal.SIGKILL)
        backoff = await witness.until(ServerState.BACKOFF, since=since)
        assert "crashed (SIGKILL)" in backoff.reason
        assert backoff.pid is None
        again = await witness.until(ServerState.READY, since=since)
        assert again.restarts == 1
        assert again.pid != first.pid
        assert again.invocation_id != first.invocation_id

    async def test_a_start_by_hand_counts_from_zero(
        self, launcher: ServerBackend, specs: Specs
    ) -> None:
        spec, witness = specs(), Witness(launcher)
        await started(launcher, spec)
        os.kill(pid_of(launcher, spec.port), signal.SIGKILL)
        await witness.until(ServerState.BACKOFF)
        assert (await started(launcher, spec)).restarts == 0

    async def test_stop_in_backoff(self, launcher: ServerBackend, specs: Specs) -> None:
        spec, witness = specs(), Witness(launcher)
        await started(launcher, spec)
        os.kill(pid_of(launcher, spec.port), signal.SIGKILL)
        await witness.until(ServerState.BACKOFF)
        await launcher.stop(spec.port)
        assert launcher.observed()[spec.port].state is ServerState.STOPPED

    async def test_no_model_file(
        self, launcher: ServerBackend, specs: Specs, tmp_path: Path
    ) -> None:
        spec = specs(model_path=str(tmp_path / "absent.gguf"))
        await launcher.start(spec)
        server = await settle(launcher, spec.port)
        assert server.state is ServerState.FAILED
        assert f"{tmp_path}/absent.gguf" in server.reason
        assert "No such file" in server.reason

    async def test_given_up_with_the_cause(
        self, launcher: ServerBackend, specs: Specs, broken_model: Path
    ) -> None:
        spec, witness = specs(model_path=str(broken_model)), Witness(launcher)
        await launcher.start(spec)
        server = await settle(launcher, spec.port)
        assert server.state is ServerState.FAILED
        assert "exited with status 1" in server.reason
        assert "not within the file bounds" in server.reason
        assert server.restarts == RESTART_LIMIT
        # systemd waits once more before it refuses the next start.
        waits = witness.states(spec.port).count(ServerState.BACKOFF)
        assert waits in (RESTART_LIMIT, RESTART_LIMIT + 1)

    async def test_start_after_failure(
        self, launcher: ServerBackend, specs: Specs, tmp_path: Path
    ) -> None:
        spec = specs()
        await launcher.start(specs(port=spec.port, model_path=str(tmp_path / "absent.gguf")))
        assert (await settle(launcher, spec.port)).state is ServerState.FAILED
        assert (await started(launcher, spec)).reason == ""

    async def test_stop_after_failure(
        self, launcher: ServerBackend, specs: Specs, tmp_path: Path
    ) -> None:
        spec = specs(model_path=str(tmp_path / "absent.gguf"))
        await launcher.start(spec)
        await settle(launcher, spec.port)
        await launcher.stop(spec.port)
        assert launcher.observed()[spec.port].state is ServerState.STOPPED

    async def test_a_start_replaces(self, launcher: ServerBackend, specs: Specs) -> None:
        old = specs()
        new = specs(port=old.port, model_id="demo_other", ctx_size=128)
        pid = (await started(launcher, old)).pid
        server = await started(launcher, new)
        assert pid
        assert not psutil.pid_exists(pid)
        assert (server.model_id, server.spec_hash) == ("demo_other", new.hash)

    async def test_two_side_by_side(self, launcher: ServerBackend, specs: Specs) -> None:
        one, two = specs(), specs(instance=1)
        await asyncio.gather(launcher.start(one), launcher.start(two))
        servers = await asyncio.gather(settle(launcher, one.port), settle(launcher, two.port))
        assert [server.state for server in servers] == [ServerState.READY] * 2
        assert [server.instance for server in servers] == [0, 1]
        assert launcher.api_key(one.port) != launcher.api_key(two.port)
        await launcher.stop(one.port)
        assert launcher.observed()[two.port].state is ServerState.READY

    async def test_a_taken_port(self, launcher: ServerBackend, specs: Specs) -> None:
        spec = specs()
        async with stranger_on(spec.port):
            await launcher.start(spec)
            server = await settle(launcher, spec.port)
        assert server.state is ServerState.FAILED
        assert f"port {spec.port} is taken by pid {os.getpid()}" in server.reason

    async def test_the_freed_port_works(self, launcher: ServerBackend, specs: Specs) -> None:
        """Connections that were open when a server ended do not keep the next one away."""
        spec = specs()
        await started(launcher, spec)
        with socket.create_connection((spec.host, spec.port)) as idle:
            await launcher.stop(spec.port)
            assert await check_health(HostPort(spec.host, spec.port)) is Health.UNREACHABLE
            await started(launcher, spec)
            assert idle.fileno() >= 0

    async def test_logs(self, launcher: ServerBackend, specs: Specs) -> None:
        spec = specs()
        await started(launcher, spec)
        lines = await launcher.logs(spec.port, lines=500)
        assert any("model loaded" in line.text for line in lines)
        assert len({line.cursor for line in lines}) == len(lines)
        assert [line.at for line in lines] == sorted(line.at for line in lines)
        # A server that is ready may go on to say things: in between, too.
        two = await launcher.logs(spec.port, lines=2)
        later = await launcher.logs(spec.port, lines=500)
        at = later.index(two[0])
        assert (later[at : at + 2], later[: len(lines)]) == (two, lines)
        behind = await launcher.logs(spec.port, lines=500, after=lines[2].cursor)
        assert behind[: len(lines) - 3] == lines[3:]
        newer = await launcher.logs(spec.port, lines=500, after=later[-1].cursor)
        assert {line.cursor for line in newer}.isdisjoint(line.cursor for line in later)

    async def test_logs_go_on_across_restarts(self, launcher: ServerBackend, specs: Specs) -> None:
        spec = specs()
        await started(launcher, spec)
        await launcher.stop(spec.port)
        last = (await launcher.logs(spec.port, lines=1))[0].cursor
        waiting = asyncio.create_task(launcher.wait_logs(spec.port, last))
        await started(launcher, spec)
        async with asyncio.timeout(PATIENCE_S):
            await waiting
        new = await launcher.logs(spec.port, lines=500, after=last)
        assert new
        old = await launcher.logs(spec.port, lines=500)
        assert last not in {line.cursor for line in new}
        assert old[-len(new) :] == new

    async def test_a_cursor_that_is_none(self, launcher: ServerBackend, specs: Specs) -> None:
        spec = specs()
        await started(launcher, spec)
        with pytest.raises(InvalidInput, match="cursor"):
            await launcher.logs(spec.port, lines=5, after="x; rm -rf /")

    async def test_an_unknown_port(
        self, launcher: ServerBackend, free_port: Callable[[], int]
    ) -> None:
        port = free_port()
        assert launcher.api_key(port) is None
        with pytest.raises(NotFound):
            await launcher.settled(port)
        with pytest.raises(NotFound):
            await launcher.logs(port, lines=1)

    async def test_listeners(self, launcher: ServerBackend, specs: Specs) -> None:
        spec = specs()
        one, two, gone = Witness(launcher), Witness(launcher), Witness(launcher)
        gone.leave()
        gone.leave()
        await started(launcher, spec)
        await launcher.stop(spec.port)
        assert one.seen == two.seen
        assert gone.seen == []
        assert one.seen[-1] == launcher.observed()[spec.port]

    async def test_devices(self, launcher: ServerBackend, specs: Specs) -> None:
        spec = specs()
        await started(launcher, spec)
        async with asyncio.timeout(PATIENCE_S):
            listed = await asyncio.gather(launcher.list_devices(), launcher.list_devices())
        for output in listed:
            # What llama-server's log says comes on standard error: before, within or after.
            assert "Available devices:" in output, output
            assert "(none)" in output, output
            assert devices_in(output) == ()
        assert list(launcher.observed()) == [spec.port]

    async def test_the_memory_of_a_server_that_does_not_run(
        self, launcher: ServerBackend, specs: Specs
    ) -> None:
        output = await launcher.predict_memory(specs(ctx_size=131_072, parallel=1))
        report = report_in(output)
        assert report is not None, output
        assert (report.why, report.status) == ("done", -signal.SIGKILL), output
        assert report.estimate is not None, output
        assert report.estimate.host_total.context == 64 << 20
        assert launcher.observed() == {}

    async def test_figures(self, launcher: ServerBackend, specs: Specs) -> None:
        spec = specs()
        await started(launcher, spec)
        figures = (await launcher.figures())[spec.port]
        assert figures.memory_bytes
        assert figures.memory_bytes > 1_000_000
        assert figures.cpu_seconds is not None
        assert (await launcher.host_memory())[spec.port] > 0
        await launcher.stop(spec.port)
        assert spec.port not in await launcher.figures()

"""The embedded launcher: what every launcher promises, and what children of ours can do to us."""

import asyncio
import errno
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from magid.errors import CannotWrite, InvalidInput, LlamaServerMissing
from magid.host.ports import HostPort, owners_of
from magid.host.usage import ServerFigures, machine_memory, process_figures
from magid.llama.installed_program import InstalledProgram
from magid.llama.program import LlamaProgram
from magid.servers.backend import ServerBackend, ServerState
from magid.servers.processes.backend import ProcessBackend
from magid.servers.processes.readiness import Pace
from tests.support.deadlines import PATIENCE_S
from tests.support.impostor_server import NOBODY, Sly
from tests.support.launcher_contract import (
    LauncherContract,
    Specs,
    Witness,
    broken_model,
    settle,
    specs,
    started,
    stranger_on,
)
from tests.support.process_backends import Faking, MakeLauncher

pytestmark = pytest.mark.slow

__all__ = ["broken_model", "specs"]  # fixtures: pytest finds them here


class TestProcessBackend(LauncherContract):
    """The contract, with child processes."""


async def test_loading_is_seen(faking: Faking, specs: Specs, tmp_path: Path) -> None:
    launcher, spec = faking(f"loading={tmp_path}/loaded"), specs()
    witness = Witness(launcher)
    await launcher.start(spec)
    await witness.until(ServerState.LOADING)
    (tmp_path / "loaded").touch()
    await settle(launcher, spec.port)
    assert witness.states(spec.port) == [
        ServerState.STARTING,
        ServerState.LOADING,
        ServerState.READY,
    ]


@pytest.mark.parametrize(
    ("behaviour", "limit_s", "why"),
    [  # those that answer get the time for it on a busy machine
        ("never-binds", 0.7, "its port does not answer"),
        ("loading=/nonexistent", 6, "it was still loading the model"),
        ("health-error", 6, "/health answers with an error"),
    ],
)
async def test_not_ready_in_time(
    faking: Faking, specs: Specs, behaviour: str, limit_s: float, why: str
) -> None:
    launcher, spec = faking(behaviour, max_startup_s=limit_s), specs()
    witness = Witness(launcher)
    await launcher.start(spec)
    server = await settle(launcher, spec.port)
    assert server.state is ServerState.FAILED
    assert f"was not ready within {limit_s:g} s: {why}" in server.reason
    pids = {server.pid for server in witness.seen if server.pid}
    assert len(pids) == 1
    assert not psutil.pid_exists(pids.pop())


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [("any-key", "wrong key"), ("other-alias", "'stranger'")],
)
async def test_not_ours(faking: Faking, specs: Specs, behaviour: str, why: str) -> None:
    launcher, spec = faking(behaviour), specs()
    await launcher.start(spec)
    server = await settle(launcher, spec.port)
    assert server.state is ServerState.FAILED
    assert f"another program answers on port {spec.port}" in server.reason
    assert why in server.reason


async def test_a_port_stolen_at_the_start(faking: Faking, specs: Specs) -> None:
    """Our child holds no port, and a stranger who answers takes it meanwhile."""
    launcher, spec = faking("never-binds"), specs()
    await launcher.start(spec)
    async with stranger_on(spec.port):
        server = await settle(launcher, spec.port)
    assert server.state is ServerState.FAILED
    assert f"is taken by pid {os.getpid()}" in server.reason


async def test_a_stranger_who_knows_what_he_is_asked(faking: Faking, specs: Specs) -> None:
    """He would be shown the key, if who he is were asked only behind it."""
    launcher, spec = faking("never-binds"), specs()
    await launcher.start(spec)
    key = launcher.api_key(spec.port)
    assert key
    with Sly(spec.port, spec.model_id, NOBODY) as stranger:
        server = await settle(launcher, spec.port)
    assert server.state is ServerState.FAILED
    assert f"is taken by pid {os.getpid()}" in server.reason
    assert b"/health" in stranger.heard
    assert key.encode() not in stranger.heard


async def test_a_port_stolen_in_backoff(
    make_launcher: MakeLauncher, program: LlamaProgram, specs: Specs
) -> None:
    launcher, spec = make_launcher(program), specs()
    await launcher.open()
    witness = Witness(launcher)
    server = await started(launcher, spec)
    assert server.pid
    os.kill(server.pid, signal.SIGKILL)
    await witness.until(ServerState.BACKOFF)
    assert launcher.api_key(spec.port) is None
    async with stranger_on(spec.port):
        server = await settle(launcher, spec.port)
    assert server.state is ServerState.FAILED
    assert f"is taken by pid {os.getpid()}" in server.reason


async def test_a_shared_port(faking: Faking, specs: Specs, tmp_path: Path) -> None:
    """Another process listens on it as well, and may get the next connection."""
    launcher, spec = faking("shares-port", f"loading={tmp_path}/loaded"), specs()
    witness = Witness(launcher)
    await launcher.start(spec)
    await witness.until(ServerState.LOADING)
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("0.0.0.0", spec.port))
        stranger.listen()
        (tmp_path / "loaded").touch()
        server = await settle(launcher, spec.port)
    assert server.state is ServerState.FAILED
    assert f"is taken by pid {os.getpid()}" in server.reason


async def test_old_versions_are_recognised(faking: Faking, specs: Specs) -> None:
    await started(faking("no-alias"), specs())


async def test_a_deaf_server_is_killed(faking: Faking, specs: Specs) -> None:
    launcher, spec = faking("deaf", stop_timeout_s=0.2), specs()
    pid = (await started(launcher, spec)).pid
    assert pid
    await launcher.stop(spec.port)
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("by_itself", [True, False])
async def test_nothing_is_left_of_its_group(
    faking: Faking,
    specs: Specs,
    tmp_path: Path,
    by_itself: bool,
) -> None:
    launcher, spec = faking(f"leaves-child={tmp_path}/left"), specs()
    pid = (await started(launcher, spec)).pid
    left = os.pidfd_open(int((tmp_path / "left").read_text()))
    if by_itself:
        assert pid
        witness = Witness(launcher)
        os.kill(pid, signal.SIGKILL)
        await witness.until(ServerState.BACKOFF)
    await launcher.stop(spec.port)
    await asyncio.to_thread(wait_for_exit, left)


async def test_what_a_server_is_given(
    faking: Faking, specs: Specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LLAMA_ARG_PORT", "LLAMA_SERVER_ROUTER_PORT", "GGML_BACKEND_PATH", "MAGI_TOKEN"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    launcher, spec = faking(f"record={tmp_path}/record"), specs()
    await launcher.start(spec)
    await settle(launcher, spec.port)
    record = json.loads((tmp_path / "record").read_text())
    assert record["environ"]["CUDA_VISIBLE_DEVICES"] == "0"
    assert not [name for name in record["environ"] if name.startswith(("LLAMA", "GGML", "MAGI"))]


async def test_odd_paths_arrive_as_they_are(
    faking: Faking, specs: Specs, chat_model: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "a model; $HOME %i `x` \n\u2013ü.gguf"
    odd.hardlink_to(chat_model)
    launcher, spec = faking(f"record={tmp_path}/record"), specs(model_path=str(odd))
    server = await started(launcher, spec)
    record = json.loads((tmp_path / "record").read_text())
    assert record["argv"][:2] == ["--model", str(odd)]
    assert record["pid"] == server.pid  # nothing stands between


@pytest.mark.parametrize("limit", [{"memory_max": 2**30}, {"cpu_quota": 50}])
async def test_a_limit_is_not_dropped_silently(
    faking: Faking, specs: Specs, limit: dict[str, int]
) -> None:
    launcher, spec = faking("fine"), specs(**limit)
    await launcher.start(spec)
    server = await settle(launcher, spec.port)
    assert server.state is ServerState.FAILED
    assert "that takes systemd" in server.reason
    with pytest.raises(InvalidInput, match="memoryMax and cpuQuota back to null"):
        await launcher.command(spec)


async def test_the_key_file(faking: Faking, specs: Specs, tmp_path: Path) -> None:
    launcher, spec = faking("fine"), specs()
    await started(launcher, spec)
    file = tmp_path / "keys" / f"{spec.port}.key"
    first = launcher.api_key(spec.port)
    assert file.read_text().strip() == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    await launcher.start(spec)
    assert launcher.api_key(spec.port) not in (None, first)
    await launcher.stop(spec.port)
    assert not file.exists()


async def test_keys_of_an_earlier_magid_are_dropped(
    make_launcher: MakeLauncher, program: LlamaProgram, tmp_path: Path
) -> None:
    launcher = make_launcher(program)
    await launcher.open()
    (tmp_path / "keys" / "8080.key").write_text("old")
    await launcher.open()
    assert list((tmp_path / "keys").iterdir()) == []
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


async def test_keys_cannot_be_kept(tmp_path: Path, program: LlamaProgram) -> None:
    (tmp_path / "file").touch()

    async def ask(_engine: str | None = None, /) -> LlamaProgram:
        return program

    with pytest.raises(CannotWrite, match="cannot keep server keys"):
        await ProcessBackend(tmp_path / "file" / "keys", ask).open()


async def test_no_program(tmp_path: Path, specs: Specs) -> None:
    asked = InstalledProgram(str(tmp_path / "absent"), "")
    launcher, spec = ProcessBackend(tmp_path / "keys", asked), specs()
    await launcher.open()
    await launcher.start(spec)
    server = await settle(launcher, spec.port)
    assert server.state is ServerState.FAILED
    assert "LLAMA_SERVER_PATH" in server.reason
    with pytest.raises(LlamaServerMissing):
        await asked()


async def test_whatever_is_raised_in_a_start_ends_in_failed(tmp_path: Path, specs: Specs) -> None:
    async def ask(_engine: str | None = None, /) -> LlamaProgram:
        raise RuntimeError("a defect")

    launcher, spec = ProcessBackend(tmp_path / "keys", ask), specs()
    await launcher.open()
    await launcher.start(spec)
    server = await settle(launcher, spec.port)
    assert server.state is ServerState.FAILED
    assert server.reason == "cannot run it, because of an internal error: RuntimeError('a defect')"


async def test_a_program_that_cannot_be_run(
    make_launcher: MakeLauncher, specs: Specs, tmp_path: Path
) -> None:
    launcher, spec = make_launcher(tmp_path / "gone"), specs()
    await launcher.open()
    await launcher.start(spec)
    server = await settle(launcher, spec.port)
    assert server.state is ServerState.FAILED
    assert f"cannot run {tmp_path}/gone: No such file" in server.reason


async def test_an_address_of_another_machine(launcher: ServerBackend, specs: Specs) -> None:
    spec = specs(host="192.0.2.1")
    await launcher.start(spec)
    server = await settle(launcher, spec.port)
    assert server.state is ServerState.FAILED
    assert f"cannot listen on 192.0.2.1:{spec.port}" in server.reason


def wait_for_exit(pidfd: int) -> None:
    """A process that is not our child has ended, whether or not anyone collected it."""
    with os.fdopen(pidfd):
        ended, _, _ = select.select([pidfd], [], [], PATIENCE_S)
        if not ended:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)  # a failed test leaves nothing either
    assert ended


DAEMON = """
import asyncio, sys
from pathlib import Path
from typing import Any
from magid.llama.program import LlamaProgram
from magid.servers.processes.backend import ProcessBackend
from magid.llama.spec import ServerSpec

async def main(keys, program, flags, model, port):
    async def ask(_engine=None):
        return LlamaProgram(Path(program), "", frozenset(flags.split()))
    launcher = ProcessBackend(Path(keys), ask)
    await launcher.open()
    await launcher.start(ServerSpec("demo_tiny", 0, int(port), "127.0.0.1", model))
    server = await launcher.settled(int(port))
    print(server.state, server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


def test_no_orphan_when_magid_is_killed(
    program: LlamaProgram, specs: Specs, tmp_path: Path
) -> None:
    spec = specs()
    words = [str(tmp_path / "keys"), str(program.path), " ".join(program.flags)]
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON, *words, spec.model_path, str(spec.port)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as daemon:
        assert daemon.stdout
        state, pid = daemon.stdout.readline().split()
        child = os.pidfd_open(int(pid))
        daemon.kill()
    assert state == "ready"
    wait_for_exit(child)


def test_figures_of_a_process_that_is_gone() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait()
    assert process_figures(process.pid) == ServerFigures()


@pytest.mark.parametrize(
    ("took", "every", "pause"),
    [(0.0, 2.0, 0.02), (0.2, 2.0, 0.02), (0.0, 0.01, 0.01), (60.0, 2.0, 0.6), (900.0, 2.0, 2.0)],
)
def test_a_child_is_looked_at_after_20_ms_at_the_soonest(
    took: float, every: float, pause: float
) -> None:
    """What it prints hastens that."""
    pace = Pace(every, longest_s=100.0, least_s=0.02)
    assert pace.pause_s(took) == pytest.approx(pause)


def test_machine_memory() -> None:
    memory = machine_memory()
    assert 0 < memory["available"] <= memory["total"]
    assert memory["total"] == psutil.virtual_memory().total


def test_a_process_that_ends_while_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's moment, which psutil does not expect, cannot be had on demand."""
    real, failures = psutil.net_connections, [OSError(errno.EBADF, "Bad file descriptor")] * 2

    def unlucky(kind: str) -> Any:
        if failures:
            raise failures.pop()
        return real(kind)

    monkeypatch.setattr(psutil, "net_connections", unlucky)
    with socket.create_server(("127.0.0.1", 0)) as ours:
        endpoint = HostPort("127.0.0.1", ours.getsockname()[1])
        assert [owner.pid for owner in owners_of(endpoint)] == [os.getpid()]
        failures += [OSError(errno.EBADF, "Bad file descriptor")] * 9
        assert owners_of(endpoint) == []

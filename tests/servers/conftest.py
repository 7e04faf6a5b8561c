"""The world of tests with systemd, and backends with child processes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from magid.llama.program import LlamaProgram, probe
from magid.servers.backend import ServerBackend
from magid.servers.processes.backend import ProcessBackend
from tests.support import fake_llama
from tests.support.private_bus import private_bus
from tests.support.process_backends import IMPATIENT, MakeLauncher, fake_program
from tests.support.systemd_world import World, a_world


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with private_bus(tmp_path) as address:
        yield address


@pytest.fixture
async def world(tmp_path: Path, address: str, free_port: Callable[[], int]) -> AsyncIterator[World]:
    async with a_world(tmp_path, address, free_port) as world:
        yield world


@pytest.fixture(scope="session")
def program(llama_server: Path) -> LlamaProgram:
    return asyncio.run(probe(llama_server))


@pytest.fixture
async def make_launcher(tmp_path: Path) -> AsyncIterator[MakeLauncher]:
    """Makes launchers of a program file; they are closed at the end."""
    made: list[ProcessBackend] = []

    def make(program: LlamaProgram | Path, **settings: float) -> ProcessBackend:
        asked = program if isinstance(program, LlamaProgram) else fake_program(program)

        async def ask(_engine: str | None = None, /) -> LlamaProgram:
            return asked

        patience = {"max_startup_s": 20.0, "check_interval_s": 0.05, "stop_timeout_s": 10.0}
        times: dict[str, Any] = patience | settings
        made.append(ProcessBackend(tmp_path / "keys", ask, restart=IMPATIENT, **times))
        return made[-1]

    yield make
    for launcher in made:
        await launcher.close()


@pytest.fixture
async def launcher(make_launcher: MakeLauncher, program: LlamaProgram) -> ServerBackend:
    made = make_launcher(program)
    await made.open()
    return made


@pytest.fixture
def faking(make_launcher: MakeLauncher, tmp_path: Path) -> Callable[..., ProcessBackend]:
    """A launcher, open, of a program that behaves as the words say."""

    def make(*behaviour: str, **settings: float) -> ProcessBackend:
        made = make_launcher(fake_llama.install(tmp_path / "bin", *behaviour), **settings)
        (tmp_path / "keys").mkdir(mode=0o700, exist_ok=True)
        return made

    return make

"""Run by pytest within a container: what every launcher promises, kept by systemd.

Stands alone there, beside `tests.support.launcher_contract`. It has fixtures of its own, because a
container has no tools to make models with.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from magid.launcher import protocol
from magid.llama.installed_program import InstalledProgram
from magid.servers.backend import ServerBackend
from magid.servers.systemd.backend import SystemdBackend
from magid.servers.systemd.launcher_client import LauncherClient
from tests.support.deadlines import PATIENCE_S
from tests.support.launcher_contract import (
    LauncherContract,
    broken_model,
    specs,
)

__all__ = ["broken_model", "specs"]  # fixtures: pytest finds them here

MODEL = Path("/srv/models/Demo-Tiny-F16.gguf")
FIRST_PORT = 20_000  # of port_range in the container's magid.yaml
_given: list[int] = []


@pytest.fixture
def chat_model() -> Path:
    return MODEL


@pytest.fixture
def free_port() -> Callable[[], int]:
    def give() -> int:
        _given.append(FIRST_PORT + len(_given))
        return _given[-1]

    return give


@pytest.fixture
def program() -> Callable[[], object]:
    return InstalledProgram(None, os.environ["PATH"])


@pytest.fixture
async def launcher(program: InstalledProgram) -> AsyncIterator[ServerBackend]:
    made = SystemdBackend(program, profile=lambda: "contract")
    await made.open()
    yield made
    ask = LauncherClient().call
    await asyncio.gather(
        *(ask(protocol.ForgetRequest(port), PATIENCE_S) for port in made.observed())
    )
    await made.close()


class TestSystemdLauncher(LauncherContract):
    """The contract, with transient units."""

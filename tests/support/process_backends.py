"""Backends that run servers as child processes, with what tests vary of them."""

from collections.abc import Callable
from pathlib import Path

from magid.llama.program import LlamaProgram
from magid.servers.processes.backend import ProcessBackend
from magid.servers.processes.supervisor import RestartPolicy
from tests.support.launcher_contract import RESTART_LIMIT

IMPATIENT = RestartPolicy(first_delay_s=0.05, factor=1, limit=RESTART_LIMIT)
FLAGS = frozenset({"--model", "--port", "--api-key-file", "--ctx-size", "--threads", "--parallel"})

MakeLauncher = Callable[..., ProcessBackend]
Faking = Callable[..., ProcessBackend]


def fake_program(path: Path) -> LlamaProgram:
    return LlamaProgram(path, "fake", FLAGS)

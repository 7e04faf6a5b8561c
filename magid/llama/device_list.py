"""How llama-server is asked for its devices, as a child or in a unit. Pure."""

from typing import Final

from magid.errors import ServerFailed
from magid.llama.program import LlamaProgram
from magid.llama.short_runs import ShortRun

# A driver takes seconds to wake a GPU. A machine with 16 GPUs prints 4 KB.
RUN: Final = ShortRun("list the GPUs", "run `llama-server --list-devices`", seconds=30.0)
_OPTIONS: Final = ("-lv", "5", "--list-devices")  # in this order: each acts when it is read


def argv(program: str) -> list[str]:
    """Returns the command line that lists the devices."""
    return [program, *_OPTIONS]


def check(program: LlamaProgram) -> None:
    """Raises ServerFailed if this llama-server cannot list its devices."""
    if "--list-devices" not in program.flags:
        raise ServerFailed(
            f"cannot list the GPUs: {program.path} has no option --list-devices; install a newer "
            "llama-server"
        )

"""How llama-server is asked for its devices, as a child or in a unit. Pure."""

from typing import Final

from magid.errors import ServerFailed
from magid.llama.program import LlamaProgram

LIST_S: Final = 30.0  # a driver takes seconds to wake a GPU
MAX_BYTES: Final = 45_000  # a machine with 16 GPUs prints 4 KB; fits into the launcher's reply
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


def late() -> ServerFailed:
    return ServerFailed(
        f"cannot list the GPUs: llama-server did not end within {LIST_S:g} s; a driver may hang: "
        "see `journalctl -k`"
    )


def too_long() -> ServerFailed:
    return ServerFailed(
        f"cannot list the GPUs: llama-server printed more than {MAX_BYTES} bytes; run "
        "`llama-server --list-devices` to see what it prints"
    )

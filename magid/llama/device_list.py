"""How llama-server is asked for its devices, as a child or in a unit."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from magid.errors import ServerFailed
from magid.llama.program import LlamaProgram
from magid.llama.short_runs import ShortRun

# A driver takes seconds to wake a GPU. A machine with 16 GPUs prints 4 KB.
RUN: Final = ShortRun("list the GPUs", "run `llama-server --list-devices`", seconds=30.0)
HEAD: Final = "Available devices:"
SILENT: Final = "cannot reach the RPC server "
ANSWER_S: Final = 5.0  # of all RPC servers, which are tried at once
REACH: Final = "reach_servers.py"
REACH_RUN: Final = ShortRun("reach the RPC servers", "look at their machines", seconds=15.0)
LIMIT_S: Final = REACH_RUN.seconds + 2 * RUN.seconds  # of all that `listed` runs
_OPTIONS: Final = ("-lv", "5", "--list-devices")  # in this order: each acts when it is read


def argv(program: str, remote: Sequence[str] = ()) -> list[str]:
    """Returns the command line that lists the devices, those of the RPC servers included."""
    return [program, *(("--rpc", ",".join(remote)) if remote else ()), *_OPTIONS]


def check(program: LlamaProgram) -> None:
    """Raises ServerFailed if this llama-server cannot list its devices."""
    if "--list-devices" not in program.flags:
        raise ServerFailed(
            f"cannot list the GPUs: {program.path} has no option --list-devices; install a newer "
            "llama-server"
        )


def reach_argv(script: Sequence[str], remote: Sequence[str]) -> list[str]:
    """Returns the command line that tries to reach these; `script` is how to run `REACH`."""
    return [*script, f"{ANSWER_S:g}", *remote]


async def listed(
    run: Callable[[tuple[str, ...]], Awaitable[str]],
    reach: Callable[[tuple[str, ...]], Awaitable[str]],
    remote: tuple[str, ...],
) -> str:
    """Returns the output with the devices of those RPC servers that answer; `run` lists them.

    llama-server aborts if one of them does not, and without ggml's RPC back end: no RPC server may
    take this machine's own GPUs from the list, nor hold them up. So `reach` tries them first, which
    also tells one that another client uses. A line with SILENT says which one is left out, and why.
    """
    if not remote:
        return await run(())
    told = dict(line.split(" ", 1) for line in (await reach(remote)).splitlines() if " " in line)
    silent = {one: why for one in remote if (why := told.get(one, "it was not tried"))}
    answering = tuple(one for one in remote if one not in silent)
    output = ""
    if answering:
        why = "llama-server cannot use it; ggml's RPC back end may not be installed"
        try:
            output = await run(answering)
        except ServerFailed as error:
            why = error.message.removeprefix(f"cannot {RUN.purpose}: ")
        if HEAD not in output:
            silent |= dict.fromkeys(answering, why)
    if HEAD not in output:
        output = await run(())
    return "\n".join([*(f"{SILENT}{one}: {why}" for one, why in silent.items()), output])

"""How llama-server is asked for its devices, as a child or in a unit."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from magid.errors import ServerFailed
from magid.llama.program import LlamaProgram
from magid.llama.short_runs import ShortRun

# A driver takes seconds to wake a GPU. A machine with 16 GPUs prints 4 KB.
RUN: Final = ShortRun("list the GPUs", "run `llama-server --list-devices`", seconds=30.0)
HEAD: Final = "Available devices:"
SILENT: Final = "cannot reach the RPC server "
CONNECT_S: Final = 2.0
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


async def listed(run: Callable[[tuple[str, ...]], Awaitable[str]], remote: Sequence[str]) -> str:
    """Returns the output with the devices of those RPC servers that answer; `run` lists them.

    llama-server aborts if one of them does not, and without ggml's RPC back end: no RPC server may
    take this machine's own GPUs from the list. A line with SILENT says which one is left out, why.
    """
    if not remote:
        return await run(())
    silent = await asyncio.gather(*map(_why_silent, remote))
    answering = tuple(one for one, why in zip(remote, silent, strict=True) if not why)
    said = [f"{SILENT}{one}: {why}" for one, why in zip(remote, silent, strict=True) if why]
    output = ""
    if answering:
        with suppress(ServerFailed):
            output = await run(answering)
        if HEAD not in output:
            why = "llama-server cannot use it; ggml's RPC back end may not be installed"
            said += [f"{SILENT}{one}: {why}" for one in answering]
    if HEAD not in output:
        output = await run(())
    return "\n".join([*said, output])


async def _why_silent(server: str) -> str:
    """Returns why this server does not answer; "" if it does."""
    host, _, port = server.rpartition(":")
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, int(port))
    except TimeoutError:
        return "no answer in time"
    except OSError as error:
        return error.strerror or str(error)
    writer.close()
    return ""

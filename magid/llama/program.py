"""The installed llama-server program: its path, version and options."""

import asyncio
import os
import platform
import re
import signal
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from magid.errors import LlamaServerMissing
from magid.llama.arguments import child_environment
from magid.llama.client import TooLong, read_at_most

MAX_PROBE_BYTES = 1024 * 1024  # `--help` is 60 KB in 0.7.0
PROBE_S = 10.0  # for each of the two runs


_USUAL_PLACES = (Path("/usr/local/bin/llama-server"), Path("/usr/bin/llama-server"))
_OPTION_NAME = re.compile(r"--?[A-Za-z][A-Za-z0-9._-]*")
_SPEC_TYPES = re.compile(r"^--spec-type\s+(\S+)", re.MULTILINE)
_SPEC_TYPE = re.compile(r"[a-z][a-z0-9-]{0,31}")


class LlamaProgram(Struct, frozen=True):
    """An installed llama-server."""

    path: Path
    version: str
    flags: frozenset[str]  # every option that its --help lists, and `--spec-type=VALUE`
    changed_at: float = 0.0  # when its file was put there or replaced; seconds since the epoch


class ProgramOf(Protocol):
    """Returns the llama-server that the setting `engine` means. Raises LlamaServerMissing."""

    def __call__(self, engine: str | None = None, /) -> Awaitable[LlamaProgram]: ...


def advice(system: Mapping[str, str]) -> str:
    """Returns how to install llama-server, by the fields of os-release(5). Pure.

    Debian has it in `llama.cpp-tools` since release 14 (forky); unreleased versions have no
    VERSION_ID.
    """
    number = system.get("VERSION_ID", "")
    if system.get("ID") == "debian" and (not number.isdecimal() or int(number) >= 14):
        return "run `apt install llama.cpp-tools`"
    return (
        "put llama.cpp's llama-server into /usr/local/bin, or set llama_server_path in "
        "/etc/magi/magid.yaml (LLAMA_SERVER_PATH) to where it is"
    )


def _advice() -> str:
    try:
        return advice(platform.freedesktop_os_release())
    except OSError:
        return advice({})


class FoundProgram(Struct, frozen=True):
    """The file of a llama-server that can be run; `identity` is another one after a change."""

    path: Path
    real: Path  # links resolved
    identity: tuple[int, int, int, int]


def look_at(program: Path) -> FoundProgram | None:
    """Returns None if it cannot be run. Blocks for as long as its file system does."""
    try:
        status = program.stat()
        if not stat.S_ISREG(status.st_mode) or not os.access(program, os.X_OK):
            return None
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        return FoundProgram(program, program.resolve(), identity)
    except OSError:  # a parent folder may not be entered, or it was removed meanwhile
        return None


def find_program(
    configured: str | None,
    search_path: str,
    look: Callable[[Path], FoundProgram | None] = look_at,
) -> FoundProgram:
    """Returns the llama-server to use. Raises LlamaServerMissing, and what `look` raises.

    `configured`, if it is set: if that cannot be run, no other is used. Else the first in
    /usr/local/bin, /usr/bin and the folders of `search_path` (the PATH variable).
    """
    if configured:
        program = Path(configured).absolute()
        if (found := look(program)) is None:
            raise LlamaServerMissing(
                f"cannot use {program} as llama-server: it is not an executable program; "
                "install one there, or correct llama_server_path in /etc/magi/magid.yaml "
                "(LLAMA_SERVER_PATH); `magictl engine use` chooses another engine",
                program=str(program),
            )
        return found
    folders = [Path(folder) for folder in search_path.split(os.pathsep) if folder.startswith("/")]
    for program in (*_USUAL_PLACES, *(folder / "llama-server" for folder in folders)):
        if found := look(program):
            return found
    raise LlamaServerMissing(
        f"cannot find llama-server in /usr/local/bin, /usr/bin or PATH: {_advice()}"
    )


async def probe(
    program: Path, *, timeout_s: float = PROBE_S, through: Sequence[str] = ()
) -> LlamaProgram:
    """Runs a llama-server twice, for its version and its options.

    `through` is a command that executes what follows it, as `standalone/drop_rights.py` does.

    That takes 50 ms, but up to 10 s on a cold disk, or if a driver has to wake a GPU. Raises
    LlamaServerMissing if it is not a llama-server or does not end in time.
    """
    changed_at = _changed_at(program)
    flags = flags_in(await _output_of(program, "--help", timeout_s, through))
    if not {"--model", "--port"} <= flags:
        raise _unusable(program, "its --help does not list llama-server's options")
    version = version_in(await _output_of(program, "--version", timeout_s, through))
    return LlamaProgram(program, version, flags, changed_at)


def _changed_at(program: Path) -> float:
    """Returns the time of the inode's last change: a package keeps the time of its making."""
    try:
        return program.stat().st_ctime
    except OSError as error:
        raise _unusable(program, str(error)) from error


def flags_in(help_text: str) -> frozenset[str]:
    """Returns the options in `llama-server --help`, which are at the beginnings of lines.

    Leaves out removed options (`--draft-max` in 0.7.0), with which llama-server does not start. Of
    --spec-type it adds each value: versions differ in the kinds of drafts that they can use.
    """
    lines = (line for line in help_text.splitlines() if "has been removed" not in line)
    names = frozenset(name for line in lines for name in _leading_options(line))
    values = _SPEC_TYPE.findall(found[1]) if (found := _SPEC_TYPES.search(help_text)) else ()
    return names | {f"--spec-type={value}" for value in values}


def _leading_options(line: str) -> Iterator[str]:
    for word in line.replace(",", " ").split() if line.startswith("-") else ():
        if not _OPTION_NAME.fullmatch(word):
            return
        yield word


def version_in(text: str) -> str:
    """Returns the version in `llama-server --version`; "unknown" if there is none."""
    found = re.search(r"^version: (.{1,200})$", text, re.MULTILINE)
    return found[1].strip() if found else "unknown"


def _unusable(program: Path, why: str) -> LlamaServerMissing:
    return LlamaServerMissing(
        f"cannot use {program} as llama-server: {why}; {_advice()}", program=str(program)
    )


async def _output_of(program: Path, option: str, timeout_s: float, through: Sequence[str]) -> str:
    """Returns the program's output. Its process group has ended when this returns or raises."""
    try:
        process = await asyncio.create_subprocess_exec(
            *through,
            str(program),
            option,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=child_environment(os.environ),
            start_new_session=True,
        )
    except OSError as error:
        raise _unusable(program, str(error)) from error
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout_s):
            output = await read_at_most(process.stdout, MAX_PROBE_BYTES)
            await process.wait()
    except TimeoutError:
        why = f"`{option}` did not end within {timeout_s:g} s"
        raise _unusable(program, why) from None
    except TooLong:
        raise _unusable(program, f"`{option}` prints too much") from None
    finally:
        await _kill_group(process)
    if process.returncode != 0:
        raise _unusable(
            program, f"`{option}` ended with {process.returncode}: {_last_line(output)}"
        )
    return output.decode(errors="replace")


async def _kill_group(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.communicate()  # reads the rest, without which the pipe would stay open


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it printed nothing"

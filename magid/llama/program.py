"""The installed llama-server program: its path, version and options."""

import asyncio
import os
import platform
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from magid.errors import LlamaServerMissing
from magid.llama.arguments import child_environment
from magid.llama.client import TooLong, read_at_most

MAX_PROBE_BYTES = 1024 * 1024  # `--help` is 60 KB in 0.7.0


_USUAL_PLACES = (Path("/usr/local/bin/llama-server"), Path("/usr/bin/llama-server"))
_OPTION_NAME = re.compile(r"--?[A-Za-z][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class LlamaProgram:
    """An installed llama-server."""

    path: Path
    version: str
    flags: frozenset[str]  # every option that its --help lists, short and long
    changed_at: float = 0.0  # when its file was put there or replaced; seconds since the epoch


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


def find_program(configured: str | None, search_path: str) -> Path:
    """Returns the llama-server to use. Raises LlamaServerMissing.

    `configured`, if it is set: if that cannot be run, no other is used. Else the first in
    /usr/local/bin, /usr/bin and the folders of `search_path` (the PATH variable).
    """
    if configured:
        program = Path(configured).absolute()
        if not _can_run(program):
            raise LlamaServerMissing(
                f"cannot use {program} as llama-server: it is not an executable program; "
                "install one there, or correct llama_server_path in /etc/magi/magid.yaml "
                "(LLAMA_SERVER_PATH)",
                program=str(program),
            )
        return program
    folders = [Path(folder) for folder in search_path.split(os.pathsep) if folder.startswith("/")]
    for program in (*_USUAL_PLACES, *(folder / "llama-server" for folder in folders)):
        if _can_run(program):
            return program
    raise LlamaServerMissing(
        f"cannot find llama-server in /usr/local/bin, /usr/bin or PATH: {_advice()}"
    )


def _can_run(program: Path) -> bool:
    """False also if a parent folder may not be entered, where `Path.is_file` raises."""
    try:
        return program.is_file() and os.access(program, os.X_OK)
    except OSError:
        return False


RETRY_S = 10.0


class InstalledProgram:
    """The llama-server of this machine; it is probed again only if its file has changed.

    Call the object for the LlamaProgram; concurrent callers share one probe. Raises
    LlamaServerMissing; the next call searches again. A program that failed is not run again for
    RETRY_S unless its file changes, because a dashboard calls this every second.
    """

    def __init__(self, configured: str | None, search_path: str) -> None:
        self._configured = configured
        self._search_path = search_path
        self._lock = asyncio.Lock()
        self._known: tuple[tuple[str, int, int, int, int], LlamaProgram] | None = None
        self._failed: tuple[tuple[str, int, int, int, int], float, LlamaServerMissing] | None = None

    async def __call__(self) -> LlamaProgram:
        async with self._lock:
            path = find_program(self._configured, self._search_path)
            identity = _identity(path)
            if self._known is None or self._known[0] != identity:
                self._known = (identity, await self._probed(path, identity))
            return self._known[1]

    async def _probed(self, path: Path, identity: tuple[str, int, int, int, int]) -> LlamaProgram:
        failed = self._failed
        if failed and failed[0] == identity and time.monotonic() < failed[1] + RETRY_S:
            raise failed[2]
        try:
            return await probe(path)
        except LlamaServerMissing as error:
            self._failed = (identity, time.monotonic(), error)
            raise


def _identity(path: Path) -> tuple[str, int, int, int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise _unusable(path, str(error)) from error
    return (str(path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


async def probe(program: Path, *, timeout_s: float = 10.0) -> LlamaProgram:
    """Runs a llama-server twice, for its version and its options.

    That takes 50 ms, but up to 10 s on a cold disk, or if a driver has to wake a GPU. Raises
    LlamaServerMissing if it is not a llama-server or does not end in time.
    """
    changed_at = _changed_at(program)
    flags = flags_in(await _output_of(program, "--help", timeout_s))
    if not {"--model", "--port"} <= flags:
        raise _unusable(program, "its --help does not list llama-server's options")
    version = version_in(await _output_of(program, "--version", timeout_s))
    return LlamaProgram(program, version, flags, changed_at)


def _changed_at(program: Path) -> float:
    """Returns the time of the inode's last change: a package keeps the time of its making."""
    try:
        return program.stat().st_ctime
    except OSError as error:
        raise _unusable(program, str(error)) from error


def flags_in(help_text: str) -> frozenset[str]:
    """Returns the options in `llama-server --help`, which are at the beginnings of lines.

    Leaves out removed options (`--draft-max` in 0.7.0), with which llama-server does not start.
    """
    lines = (line for line in help_text.splitlines() if "has been removed" not in line)
    return frozenset(name for line in lines for name in _leading_options(line))


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


async def _output_of(program: Path, option: str, timeout_s: float) -> str:
    """Returns the program's output. Its process group has ended when this returns or raises."""
    try:
        process = await asyncio.create_subprocess_exec(
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

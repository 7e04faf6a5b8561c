"""One child process: tied to magid, its output read line by line, stopped with its process group.

A child is watched through a pidfd and reaped only here, so a signal never reaches another process
to which the kernel has since given the same number. Runs on the event loop.
"""

import asyncio
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from magid.log.buffer import MAX_LINE_BYTES, MAX_LINES, MAX_LOG_LINES
from magid.servers.processes.death_signal import setpriv_here, tied, tied_by_python
from magid.servers.processes.pipe import PipeReader

_PAUSE_S = 0.005  # pause of one server after that many lines at once
_DRAIN_SECONDS = 1.0  # how long to wait for the last output of a child that is gone


_KILLED_SECONDS = 5.0  # how long a killed process may take to end


log = logging.getLogger(__name__)


class _Lines:
    """Splits the output of a child into lines. Control characters are left as they are.

    Of many lines at once some wait for a later turn of the loop, and so does the child. They wait
    as the bytes that came: to split a pipe full of empty lines would hold the loop for 60 ms.
    """

    def __init__(self, add: Callable[[str], None]) -> None:
        self._add = add
        self._rest = b""  # lines for a later turn, and an unfinished one
        self._pipe: PipeReader | None = None  # until it has ended
        self.ended = asyncio.Event()

    def read_from(self, descriptor: int) -> PipeReader:
        """Begins to read; closes the descriptor at the end."""
        self._pipe = pipe = PipeReader(descriptor, self._add_data, self._end)
        return pipe

    def _add_data(self, data: bytes) -> None:
        self._rest += data
        if self._emit_some() and self._pipe is not None:
            self._pipe.pause_reading()
            asyncio.get_running_loop().call_later(_PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        if self.ended.is_set():
            return
        if self._emit_some():
            asyncio.get_running_loop().call_later(_PAUSE_S, self._go_on)
        elif self._pipe is not None:
            self._pipe.resume_reading()

    def _emit_some(self) -> bool:
        """Adds at most MAX_LINES lines. Returns whether there may be more."""
        at = count = 0
        while count < MAX_LINES and (found := _next_line(self._rest, at)) is not None:
            line, at = found
            self._add(line.decode(errors="replace"))
            count += 1
        self._rest = self._rest[at:]
        return count == MAX_LINES

    def _end(self) -> None:
        """Of a flood that goes on at the end, adds what a log keeps: it has no turns any more."""
        self._pipe = None
        self._rest = b"\n".join(self._rest.rsplit(b"\n", MAX_LOG_LINES)[-MAX_LOG_LINES:])
        while self._emit_some():
            pass
        if self._rest:
            self._add(self._rest.decode(errors="replace"))
        self.ended.set()


def _next_line(data: bytes, at: int) -> tuple[bytes, int] | None:
    """Returns the line that begins `at` a place, and where the next one begins. Pure.

    None: it is unfinished. One that is too long is cut into several.
    """
    end = data.find(b"\n", at, at + MAX_LINE_BYTES + 2)  # CR and LF stand behind the longest one
    if end >= 0:
        line = data[at:end].removesuffix(b"\r")
        if len(line) <= MAX_LINE_BYTES:
            return line, end + 1
    elif len(data) - at < MAX_LINE_BYTES + 2:
        return None
    return data[at : at + MAX_LINE_BYTES], at + MAX_LINE_BYTES


class Child:
    """A running program, the leader of a session and process group of its own.

    The separate session keeps the terminal's Ctrl-C with the daemon, which then stops its children
    in order. If the daemon is killed, the kernel kills the child: see `death_signal`.
    """

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.pid = process.pid
        self.started_at = time.time()
        self.returncode: int | None = None  # negative: the signal that killed it
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._exited = asyncio.Event()
        self._output: tuple[PipeReader, _Lines] | None = None
        self._report: _Report | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self._collect)

    @classmethod
    async def spawn(
        cls,
        argv: Sequence[str],
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
        *,
        files: Sequence[str] = (),
        are_usable: bool = False,
    ) -> "Child":
        """Runs `argv`. Blocks the loop for the few milliseconds of a fork. Raises OSError.

        Must be called on a thread that lives as long as the daemon: the kernel kills the child
        together with the thread that created it. A program that cannot be run shows as a child that
        exits with 127. It is not run without the `files`: see `problem_of_files`. `are_usable`: the
        caller has just looked at them.
        """
        setpriv = await setpriv_here()
        report = _Report() if files and not are_usable else None
        reading, writing = os.pipe()
        try:
            child = cls._watching(_popen(argv, environment, writing, report, files, setpriv))
        except BaseException:
            os.close(reading)
            if report is not None:
                report.close()
            raise
        finally:
            os.close(writing)
            if report is not None:
                report.begin()
        child._report = report
        try:
            child._read_from(reading, on_line)
        except BaseException:
            os.close(reading)
            await child.end(0)
            raise
        return child

    @classmethod
    def _watching(cls, process: "subprocess.Popen[bytes]") -> "Child":
        try:
            return cls(process)
        except OSError:  # out of file descriptors: it must not run on unwatched
            process.kill()
            process.wait()
            raise

    def _read_from(self, reading: int, on_line: Callable[[str], None]) -> None:
        lines = _Lines(on_line)
        self._output = lines.read_from(reading), lines

    def _collect(self) -> None:
        """Reaps the leader; kills what is left of its process group first."""
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._signal(signal.SIGKILL)
        self.returncode = self._process.wait()  # a zombie by now: does not block
        self._exited.set()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    @property
    def has_exited(self) -> bool:
        return self._exited.is_set()

    async def wait_or(self, news: asyncio.Event, timeout_s: float) -> bool:
        """As `wait`, but no longer than until `news` is set, which it clears."""
        waits = [asyncio.ensure_future(one.wait()) for one in (self._exited, news)]
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        news.clear()
        return self.has_exited

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for at most `timeout_s` (None: no limit); returns whether the child is gone."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._exited.wait()
        return self.has_exited

    async def problem_of_files(self, timeout_s: float) -> tuple[int, str, str] | None:
        """Waits until the program runs, and returns None; or which file it cannot have.

        That is the file's number, what cannot be done ("open" or "read"), and why. Raises
        TimeoutError if a file system does not answer in time.
        """
        if self._report is None:
            return None
        await self._report.begun.wait()
        async with asyncio.timeout(timeout_s):
            return await self._report.problem()

    async def end(self, grace_s: float) -> None:
        """Sends SIGTERM, and SIGKILL after `grace_s`; returns when the child is gone. Idempotent.

        A child that waits for a hung file system does not end even then, and is left behind. May be
        cancelled and called again: signals already sent stay sent.
        """
        if not self.has_exited:
            self._signal(signal.SIGTERM)
            if not await self.wait(grace_s):
                self._signal(signal.SIGKILL)
                if not await self.wait(_KILLED_SECONDS):
                    log.error(
                        "process %d does not end, not even by SIGKILL: it waits for a disk or a "
                        "mount that does not answer", self.pid,
                    )  # fmt: skip
        if self._report is not None:
            self._report.close()
        await self._finish_output()

    async def _finish_output(self) -> None:
        """Reads the last lines; does not wait for a foreign process that holds the pipe open."""
        if self._output is None:
            return
        pipe, lines = self._output
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                await lines.ended.wait()
        pipe.close()


class _Report:
    """What exec_child.py says of the files: nothing, and the end, once it executes the program."""

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()
        self._text = b""
        self.begun = asyncio.Event()  # the files are being checked
        self._ended = asyncio.Event()
        self._pipe: PipeReader | None = None

    def begin(self) -> None:
        """Reads. Call it when the child exists: its end of the pipe is then its own."""
        os.close(self.writing)
        if self._reading >= 0:
            self._pipe = PipeReader(self._reading, self._add, self._end)

    def _add(self, data: bytes) -> None:
        self._text += data
        self.begun.set()

    def _end(self) -> None:
        self.begun.set()
        self._ended.set()

    async def problem(self) -> tuple[int, str, str] | None:
        await self._ended.wait()
        text = self._text.decode(errors="replace").removeprefix(".")
        if not text:
            return None
        number, verb, why = text.split(" ", 2)
        return int(number), verb, why

    def close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        elif self._reading >= 0:
            os.close(self._reading)
            self._reading = -1


def _popen(
    argv: Sequence[str],
    environment: Mapping[str, str],
    output: int,
    report: _Report | None,
    files: Sequence[str],
    setpriv: Path | None,
) -> "subprocess.Popen[bytes]":
    if report is None:
        command = tied(argv, os.getpid(), setpriv)
    else:
        command = tied_by_python(argv, os.getpid(), report.writing, files)
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        cwd="/",
        start_new_session=True,
        pass_fds=() if report is None else (report.writing,),
    )

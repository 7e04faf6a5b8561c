"""Worker processes for file system calls that may hang.

A system call on a mount that does not answer cannot be interrupted. In a thread it would keep the
whole program from ending, even after SIGKILL; in a process of its own it blocks only that process.
A worker exits when its input is closed, so it outlives its owner only while its mount hangs.

Requests and answers are lines of JSON. `null` is a heartbeat and not an answer.
"""

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, Final

LATE_S: Final = 5.0
"""A worker that is silent for this long counts as hung."""

_START_S: Final = 60.0  # for Python's own start, on a very busy machine
_SLICE_S: Final = 0.1  # between checks for cancellation
_GONE_S: Final = 2.0  # for a killed process that does not hang to end
_CHUNK: Final = 1 << 16
_AGAIN_S: Final = 60.0  # before another worker tries a path that hangs
_HEARTBEAT_S: Final = 0.2  # between heartbeats

_left: "list[subprocess.Popen[bytes]]" = []  # killed, but still stuck in the kernel


class Silent(Exception):
    """The worker was silent for too long, or the wait was cancelled."""


class WorkerEnded(Exception):
    """The worker exited before it answered."""


def never() -> bool:
    return False


class Worker:
    """A child process `python -m MODULE`, connected by two pipes. Not thread-safe.

    Raises OSError if the process cannot be started.
    """

    def __init__(self, module: str) -> None:
        _collect()
        self.made_at = monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            process_group=0,  # Ctrl-C in a terminal is for its owner alone, which then ends it
            env={"PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._outgoing = b""
        self._partial = b""
        self._lines: list[bytes] = []  # the next one last
        self._has_begun = False

    def submit(self, requests: Iterable[Any]) -> None:
        """Queues requests. `receive` sends them while it waits, so that no pipe can fill up."""
        self._outgoing += b"".join(json.dumps(request).encode() + b"\n" for request in requests)

    def flush(self) -> None:
        """Sends as much as the pipe takes now; for callers that do not wait for the answer."""
        self._exchange(0)

    def receive(self, timeout_s: float, is_cancelled: Callable[[], bool] = never) -> Any:
        """Returns the next answer. Blocks. Raises Silent and WorkerEnded."""
        since = monotonic()
        while True:
            while self._lines:
                self._has_begun = True
                if (answer := json.loads(self._lines.pop())) is not None:
                    return answer
            if is_cancelled() or monotonic() - since > (timeout_s if self._has_begun else _START_S):
                raise Silent
            if self._exchange(_SLICE_S):
                since = monotonic()

    @property
    def has_news(self) -> bool:
        """Whether there is output to read, or the worker has exited. Thread-safe."""
        return bool(_ready({self._out: select.POLLIN}, 0))

    def end(self, *, is_stuck: bool = False) -> None:
        """Kills the worker. Does not wait for a stuck one: it ends when its mount answers."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        if not is_stuck:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GONE_S)
        if self._process.poll() is None:
            _left.append(self._process)

    def _exchange(self, wait_s: float) -> bool:
        """Writes requests and reads answers; returns whether it read any. Raises WorkerEnded."""
        wanted = {self._out: select.POLLIN} | ({self._in: select.POLLOUT} if self._outgoing else {})
        ready = _ready(wanted, wait_s)
        if self._in in ready:
            try:
                self._outgoing = self._outgoing[os.write(self._in, self._outgoing[:_CHUNK]) :]
            except BrokenPipeError:
                raise WorkerEnded from None
        if self._out not in ready:
            return False
        data = os.read(self._out, _CHUNK)
        if not data:
            raise WorkerEnded
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._lines[:0] = reversed(lines)
        return True


class Unanswered:
    """Paths that hang, each with the one worker that waits for it. Thread-safe."""

    def __init__(self) -> None:
        self._waiting: dict[str, Worker] = {}
        self._lock = threading.Lock()

    def add(self, what: str, worker: Worker) -> None:
        with self._lock:
            before, self._waiting[what] = self._waiting.get(what), worker
        if before is not None:
            before.end(is_stuck=True)

    def __contains__(self, what: str) -> bool:
        """Whether the path still hangs, as far as is known. Forgets it if its worker answered."""
        with self._lock:
            worker = self._waiting.get(what)
            if worker is None:
                return False
            if not worker.has_news and monotonic() - worker.made_at < _AGAIN_S:
                return True
            del self._waiting[what]
        worker.end(is_stuck=True)
        return False

    def close(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for worker in waiting.values():
            worker.end(is_stuck=True)


def _ready(wanted: Mapping[int, int], wait_s: float) -> set[int]:
    """Returns the descriptors that are ready or closed."""
    poll = select.poll()  # select() takes no descriptor above 1023
    for descriptor, events in wanted.items():
        poll.register(descriptor, events)
    return {descriptor for descriptor, _ in poll.poll(1000 * wait_s)}


def _collect() -> None:
    """Reaps workers that were stuck and have ended."""
    _left[:] = [process for process in _left if process.poll() is None]


# -- in the worker ---------------------------------------------------------------------------


def serve(carry_out: Callable[[Any], Any]) -> None:
    """Answers each request on stdin with a line on stdout, until the input ends."""
    with suppress(BrokenPipeError):
        for request in requests():
            answer(carry_out(request))


def requests() -> Iterator[Any]:
    """Yields the requests, until the input is closed."""
    answer(None)
    for line in sys.stdin:
        yield json.loads(line)


def answer(content: Any) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


class Heartbeat:
    """Sends a heartbeat, at most every _HEARTBEAT_S; call it as often as you like."""

    def __init__(self) -> None:
        self._sent_at = 0.0

    def __call__(self) -> None:
        if monotonic() - self._sent_at > _HEARTBEAT_S:
            answer(None)
            self._sent_at = monotonic()

"""Work that may hang, in a process that can be left behind.

A system call on a mount that does not answer cannot be ended. In a thread it would keep the whole
program from ending, even after SIGKILL; in a process of its own it keeps only that one. A worker
ends when its input ends, so that none outlives its owner for longer than its mount hangs.

Both sides speak lines of JSON. `null` is a sign of life and no answer.
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
"""For so long a worker may say nothing before what it looks at counts as hung."""

_START_S: Final = 60.0  # for Python itself, on a machine that is very busy
_SLICE_S: Final = 0.1  # between two checks if the wait was cancelled
_GONE_S: Final = 2.0  # for a process that was killed and does not hang
_CHUNK: Final = 1 << 16
_AGAIN_S: Final = 60.0  # before another worker tries what hangs
_LIFE_S: Final = 0.2  # between two signs of life

_left: "list[subprocess.Popen[bytes]]" = []  # killed, and stuck in the kernel when last seen


class Silent(Exception):
    """The worker has said nothing for too long, or the wait for it was called off."""


class WorkerEnded(Exception):
    """The worker has ended, though something was asked of it."""


def never() -> bool:
    return False


class Worker:
    """`python -m MODULE` at the other end of two pipes; for one thread at a time.

    Raises OSError where no process can be made.
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
            env={"PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._to_say = b""
        self._heard = b""
        self._lines: list[bytes] = []  # the next one last
        self._has_begun = False

    def say(self, requests: Iterable[Any]) -> None:
        """Ask for this; it is sent while answers are waited for, so that no pipe can fill up."""
        self._to_say += b"".join(json.dumps(request).encode() + b"\n" for request in requests)

    def send(self) -> None:
        """Sends what the pipe takes now; for callers that do not wait for the answer."""
        self._exchange(0)

    def hear(self, patience_s: float, is_over: Callable[[], bool] = never) -> Any:
        """The next answer. Blocks. Raises Silent and WorkerEnded."""
        since = monotonic()
        while True:
            while self._lines:
                self._has_begun = True
                if (answer := json.loads(self._lines.pop())) is not None:
                    return answer
            if is_over() or monotonic() - since > (patience_s if self._has_begun else _START_S):
                raise Silent
            if self._exchange(_SLICE_S):
                since = monotonic()

    @property
    def has_news(self) -> bool:
        """Something can be read of it, or it has ended. From any thread."""
        return bool(_ready({self._out: select.POLLIN}, 0))

    def end(self, *, is_stuck: bool = False) -> None:
        """Kill it. One that may be stuck is not waited for: it ends when its mount answers."""
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
        """Whether anything was read. Raises WorkerEnded."""
        wanted = {self._out: select.POLLIN} | ({self._in: select.POLLOUT} if self._to_say else {})
        ready = _ready(wanted, wait_s)
        if self._in in ready:
            try:
                self._to_say = self._to_say[os.write(self._in, self._to_say[:_CHUNK]) :]
            except BrokenPipeError:
                raise WorkerEnded from None
        if self._out not in ready:
            return False
        data = os.read(self._out, _CHUNK)
        if not data:
            raise WorkerEnded
        *lines, self._heard = (self._heard + data).split(b"\n")
        self._lines[:0] = reversed(lines)
        return True


class Unanswered:
    """What hangs, and the worker that waits for it, so that no other has to.

    For several threads.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Worker] = {}
        self._lock = threading.Lock()

    def add(self, what: str, worker: Worker) -> None:
        with self._lock:
            before, self._waiting[what] = self._waiting.get(what), worker
        if before is not None:
            before.end(is_stuck=True)

    def __contains__(self, what: str) -> bool:
        """Whether it still hangs, as far as is known; one that has answered is forgotten."""
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
    """Of these descriptors, those for which there is something to do; closed ones too."""
    poll = select.poll()  # select() takes no descriptor above 1023
    for descriptor, events in wanted.items():
        poll.register(descriptor, events)
    return {descriptor for descriptor, _ in poll.poll(1000 * wait_s)}


def _collect() -> None:
    """Drops the workers that were stuck and have ended."""
    _left[:] = [process for process in _left if process.poll() is None]


# -- the other side --------------------------------------------------------------------------


def requests() -> Iterator[Any]:
    """In the worker: what is asked, until the input ends."""
    answer(None)
    for line in sys.stdin:
        yield json.loads(line)


def answer(content: Any) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


class Life:
    """Says now and then that the work goes on; called as often as one likes."""

    def __init__(self) -> None:
        self._said_at = 0.0

    def __call__(self) -> None:
        if monotonic() - self._said_at > _LIFE_S:
            answer(None)
            self._said_at = monotonic()

"""How late an event loop answers while others trouble it, measured by processes of their own.

`python -m tests.soak.pulse PORT PID` asks the process PID every 5 ms until its standard input ends,
and prints the beats as JSON: one `Beat` for each answer. A process of its own, because a thread
would also wait for its program's interpreter lock. Time for which the loop's thread or this process
waited for a processor is not counted: it is the machine's.

What the kernel does not count as waiting (a hypervisor that runs another machine, a page of a
program that comes from a disk) is told by a control: `python -m tests.soak.pulse control` is a loop
that does nothing but answer, asked in the same way at the same time. `verdict` compares the two.
"""

import asyncio
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.support.deadlines import DEADLINE_S, PATIENCE_S

EVERY_S = 0.005
MOST_PAUSE_S = 0.05  # what SECURITY.md promises
_ASK = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_ROOT = Path(__file__).parents[2]


def schedule(pid: int, thread: int) -> tuple[float, float]:
    """Seconds that a thread has run so far, and waited for a processor (proc(5), schedstat)."""
    ran, waited, _ = Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()
    return int(ran) / 1e9, int(waited) / 1e9


def waited_s(pid: int, thread: int) -> float:
    """How long a thread has waited for a processor so far: no fault of the event loop."""
    return schedule(pid, thread)[1]


# -- what was seen ---------------------------------------------------------------------------------


class Beat(Struct, array_like=True):
    """One answer. `began_s` is of a clock that all processes share."""

    began_s: float
    took_s: float
    late_s: float  # of that, without what either side waited for a processor
    ran_s: float  # for how long the loop's thread was computing meanwhile


class Beats(Struct):
    beats: list[Beat]
    failures: list[str]

    @property
    def shown(self) -> str:
        if not self.beats:
            return "none"
        late = sorted(one.late_s for one in self.beats)
        return f"{1000 * late[len(late) // 2]:.1f} ms, at most {1000 * late[-1]:.0f} ms"


class Pause(Struct):
    """An answer that was late, and the latest one of the control at the same time."""

    beat: Beat
    control_s: float

    @property
    def own_s(self) -> float:
        """What is left for the loop itself."""
        return self.beat.late_s - self.control_s

    @property
    def shown(self) -> str:
        late, ran, control = (1000 * s for s in (self.beat.late_s, self.beat.ran_s, self.control_s))
        return f"{late:.0f} ms late (computed for {ran:.0f} ms, the control {control:.0f} ms late)"


def pauses(seen: list[Beat], control: list[Beat], most_s: float = MOST_PAUSE_S) -> list[Pause]:
    """The answers that were later than that, worst first by what is the loop's own."""
    late = [beat for beat in seen if beat.late_s > most_s]
    found = [Pause(beat, _latest(control, beat)) for beat in late]
    return sorted(found, key=lambda pause: -pause.own_s)


def _latest(control: list[Beat], beat: Beat) -> float:
    """Of the control's answers that were awaited at the same time as this one."""
    end_s = beat.began_s + beat.took_s
    return max(
        (
            other.late_s
            for other in control
            if other.began_s < end_s and other.began_s + other.took_s > beat.began_s
        ),
        default=0.0,
    )


def verdict(seen: Beats, control: Beats) -> dict[str, object]:
    """Whether the loop paused for over 50 ms, with what it takes to judge that: for `Figures`."""
    late = pauses(seen.beats, control.beats)
    own = [pause for pause in late if pause.own_s > MOST_PAUSE_S]
    return {
        "an answer of magid's": f"{seen.shown} ({len(seen.beats)} answers)",
        "one of the control": f"{control.shown} ({len(control.beats)} answers)",
        "later than 50 ms": f"{len(late)}, of which {len(own)} are the loop's own",
        "the worst": "; ".join(pause.shown for pause in late[:5]) or "none",
    }


# -- measuring -------------------------------------------------------------------------------------


class Pulse:
    """A context in which a process is asked; `beats` holds what was seen once it is left."""

    def __init__(self, port: int, pid: int) -> None:
        self.beats = Beats([], [])
        self._arguments = [str(port), str(pid)]

    def __enter__(self) -> "Pulse":
        self._process = _start(*self._arguments)
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it has begun
        return self

    def __exit__(self, *_: object) -> None:
        said, _error = self._process.communicate(timeout=PATIENCE_S)
        self.beats = msgspec.json.decode(said, type=Beats)


@contextmanager
def control() -> Iterator[Pulse]:
    """A loop that has nothing to do, asked as magid is; its beats are there behind the block."""
    process = _start("control")
    assert process.stdout is not None
    try:
        with Pulse(int(process.stdout.readline()), process.pid) as pulse:
            yield pulse
    finally:
        process.communicate(timeout=PATIENCE_S)


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.soak.pulse", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT)


def measure(port: int, pid: int) -> Beats:
    seen, own = Beats([], []), os.getpid()
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        print(flush=True)
        while not select.select([sys.stdin], [], [], EVERY_S)[0]:
            before = (*schedule(pid, pid), waited_s(own, own))
            began = time.perf_counter()
            connection.sendall(_ASK)
            answer = connection.recv(65536)
            took = time.perf_counter() - began
            after = (*schedule(pid, pid), waited_s(own, own))
            ran, *waited = (late - early for early, late in zip(before, after, strict=True))
            seen.beats.append(Beat(began, took, max(0.0, took - sum(waited)), ran))
            if b" 200 OK" not in answer:
                seen.failures.append(f"/livez: {answer[:100]!r}")
                break
    return seen


async def serve() -> None:
    """Answers whatever comes, until standard input ends. Prints its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(_ANSWER)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), over.set)
    await over.wait()
    server.close()


if __name__ == "__main__":
    if sys.argv[1] == "control":
        asyncio.run(serve())
    else:
        sys.stdout.write(msgspec.json.encode(measure(int(sys.argv[1]), int(sys.argv[2]))).decode())

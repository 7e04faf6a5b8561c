"""How late magid answers while others trouble it, measured by a process that does nothing else.

`python -m tests.soak.pulse PORT PID` asks the daemon PID for /livez every 5 ms until its standard
input ends, and prints one line of JSON: {"late_s": [seconds of each answer], "failures": [text]}.
A process of its own, because a thread would also wait for its program's interpreter lock. Time for
which the daemon's event loop or this process waited for a processor is not counted: it is the
machine's.
"""

import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

from msgspec import Struct

from tests.support.deadlines import DEADLINE_S, PATIENCE_S

EVERY_S = 0.005
_ASK = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
_ROOT = Path(__file__).parents[2]


def waited_s(pid: int, thread: int) -> float:
    """How long a thread has waited for a processor so far: no fault of the event loop."""
    return int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[1]) / 1e9


class Beats(Struct):
    """What was seen, and by how much each answer was late."""

    late_s: list[float]
    failures: list[str]

    @property
    def shown(self) -> str:
        late = sorted(self.late_s)
        return f"{1000 * late[len(late) // 2]:.1f} ms, at most {1000 * late[-1]:.0f} ms"


class Pulse:
    """A context in which magid is asked; `beats` holds what was seen once it is left."""

    def __init__(self, port: int, pid: int) -> None:
        self.beats = Beats([], [])
        self._command = [sys.executable, "-m", "tests.soak.pulse", str(port), str(pid)]

    def __enter__(self) -> "Pulse":
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it has begun
        return self

    def __exit__(self, *_: object) -> None:
        said, _error = self._process.communicate(timeout=PATIENCE_S)
        self.beats = Beats(**json.loads(said))


def beat(port: int, pid: int) -> Beats:
    beats = Beats([], [])
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        print(flush=True)
        while not select.select([sys.stdin], [], [], EVERY_S)[0]:
            began = time.perf_counter() - _waited_s(pid)
            connection.sendall(_ASK)
            answer = connection.recv(65536)
            beats.late_s.append(time.perf_counter() - _waited_s(pid) - began)
            if b" 200 OK" not in answer:
                beats.failures.append(f"/livez: {answer[:100]!r}")
                break
    return beats


def _waited_s(pid: int) -> float:
    return waited_s(pid, pid) + waited_s(os.getpid(), os.getpid())


if __name__ == "__main__":
    seen = beat(int(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps({"late_s": seen.late_s, "failures": seen.failures}))

"""The kernel fails a system call of a write, or ends the writer within it: each call in turn.

strace attaches to a writer of the registry and profiles and injects one fault: an error, or a
SIGKILL. Acknowledged numbers must be there afterwards, and everything must be readable.
`python -m tests.soak.faults write FOLDER` is that writer.
"""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

from magid.catalog.profile_store import ProfileDir
from magid.errors import CannotWrite, MagidError
from magid.files.document import Store
from tests.soak.figures import Figures
from tests.soak.kills import number_in, number_of, profile_of

WRITES = 3  # of the registry, each followed by one of the profile
CALLS = {"openat": 14, "write": 9, "fsync": 9, "rename": 14, "link": 4, "unlink": 6, "close": 12}
FAULTS = (
    *("error=EIO", "error=ENOSPC", "error=EDQUOT", "error=EROFS", "error=EINTR"),
    "signal=KILL",
)
PATIENCE_S = 60


def writes(folder: Path) -> None:
    """Says "ready", waits for a byte, then a line for each write: what, number, outcome."""
    store = Store(folder / "registry.json", ballast_bytes=0)
    number = store.load(number_in).value or 0
    profiles = ProfileDir(folder / "profiles")
    say("ready")
    os.read(0, 1)
    for one in range(number + 1, number + 1 + WRITES):
        attempt("registry", one, partial(store.save, {"n": one}))
        attempt("profile", one, partial(profiles.replace, "counter", profile_of(one), None))
    say("done 0 ok")


def attempt(what: str, number: int, write: Callable[[], object]) -> None:
    try:
        write()
    except CannotWrite as error:
        say(f"{what} {number} refused: {error.message}")
    else:
        say(f"{what} {number} ok")


def say(text: str) -> None:
    """Again and again, until it is out: the fault may hit this very call."""
    line = text.encode() + b"\n"
    while True:
        try:
            os.write(1, line)
        except OSError:
            continue
        return


# -- one round -----------------------------------------------------------------------------------


def faulty(folder: Path, call: str, fault: str, nth: int) -> dict[str, int]:
    """What was acknowledged: the last number of "registry" and "profile"; and what was "hit"."""
    module = [sys.executable, "-m", "tests.soak.faults", "write", str(folder)]
    with subprocess.Popen(
        module, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        inject = [f"--trace={call}", f"--inject={call}:{fault}:when={nth}"]
        with subprocess.Popen(
            ["strace", f"--attach={writer.pid}", *inject], stderr=subprocess.PIPE
        ) as strace:
            assert strace.stderr is not None
            first = strace.stderr.readline()
            assert b"attached" in first, first
            output, complaint = writer.communicate(b"x", PATIENCE_S)
            strace.communicate(timeout=PATIENCE_S)
    said = {"registry": 0, "profile": 0, "hit": 0}
    for line in output.decode().splitlines():
        what, number, outcome = line.split(" ", 2)
        said["hit"] += outcome != "ok"
        if outcome == "ok":
            said[what] = int(number)
    if "done" not in said and fault != "signal=KILL":
        raise AssertionError(f"the writer ended: {complaint.decode()[-500:]}")
    said["hit"] += "done" not in said
    return said


def cases(rounds: int, seed: int) -> Iterator[tuple[str, str, int]]:
    """Every call with every fault at every place, in an order by the seed; `rounds` of them."""
    every = [
        (c, f, n) for (c, most), f in product(CALLS.items(), FAULTS) for n in range(1, most + 1)
    ]
    random.Random(seed).shuffle(every)
    yield from every[:rounds]


def run(rounds: int, seed: int, folder: Path) -> Figures:
    figures = Figures("faults of system calls", seed)
    profiles = ProfileDir(folder / "profiles")
    profiles.path.mkdir()
    profiles.create(profile_of(0))
    before, hits = {"registry": 0, "profile": 0}, 0
    for call, fault, nth in cases(rounds, seed):
        figures.rounds += 1
        name = f"{call} {fault} {nth}"
        try:
            said = faulty(folder, call, fault, nth)
            with figures.recovery():
                loaded = Store(folder / "registry.json", ballast_bytes=0).load(number_in)
            found = {"registry": loaded.value or 0, "profile": number_of(profiles.get("counter"))}
        except (AssertionError, MagidError, subprocess.TimeoutExpired) as error:
            figures.failures.append(f"{name}: {error}")
            continue
        figures.check(not loaded.problems, f"{name}: {loaded.problems}")
        for what, number in found.items():
            least = max(said[what], before[what])
            figures.check(number >= least, f"{name}: {what} {least} acknowledged, {number} there")
        before = found
        hits += said["hit"]
    figures.more["writes that were refused or ended"] = hits
    return figures


if __name__ == "__main__":
    if sys.argv[1] == "write":
        writes(Path(sys.argv[2]))
    else:
        done = run(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
        print(done.line())
        sys.exit(bool(done.failures))

"""Servers that were taken over, all at once, beside a calm one whose clients notice nothing.

`python -m tests.soak.hostile SECONDS SEED FOLDER`, or `make soak TOPICS=hostile SCALE=0.1` (scale 1
is 600 s). It ends by itself when that time is over and the last requests are answered. Each hostile
server has clients of its own, to whom it misbehaves in random ways and at the same time. One client
asks a calm server all the while, and one asks magid itself every 5 ms: a loop that is held shows as
an answer that comes late. Beside that, the line that it prints has how late a loop with nothing to
do was at the same time; SECURITY.md promises "later than 50 ms: N, of which 0 are the loop's own".
"""

import math
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from tests.soak.figures import Figures
from tests.soak.parts import parts
from tests.soak.pulse import Pulse, control, verdict
from tests.support import hostile
from tests.support.deadlines import DEADLINE_S
from tests.support.hostile import COUNT, NAMES, SMALL, Taken, misbehave, model
from tests.support.rest import Parts

CLIENTS = 2  # of each hostile server
QUIET_S = 5.0  # the same is measured before, with nothing hostile: what the machine itself does
MOST_KIB = COUNT * CLIENTS * 8 * 1024  # all at once; each answer may take 8 MiB
# 10 s each; and what reaches the next client of the same server, as whatever that sends can do.
LEFT_OUT = {"slow head", "a second answer later"}


def calm(taken: Taken, is_over: Callable[[], bool], figures: Figures) -> int:
    """Requests to the calm server, which all have to be answered well."""
    count = 0
    while not is_over():
        wrong = misbehave(taken.magid, "", SMALL)
        figures.check(not wrong, f"the calm client: {wrong}")
        count += 1
    return count


def order_of(seed: int) -> Iterator[str]:
    """Every name in random order, again and again."""
    names = [name for name in NAMES if name not in LEFT_OUT]
    dice = random.Random(seed)
    while True:
        yield from dice.sample(names, len(names))


def trouble(
    taken: Taken, names: Iterable[str], number: int, end_s: float, figures: Figures
) -> set[str]:
    """One client of one hostile server, until `end_s` of the clock; the ways that it met."""
    met = set[str]()
    for name in names:
        if time.monotonic() > end_s:
            break
        wrong = judged(taken, name, number)
        figures.check(not wrong, wrong)
        figures.rounds += 1
        met.add(name)
    return met


def judged(taken: Taken, name: str, number: int) -> str:
    """What is wrong. That its server is left out for a while is no answer to judge."""
    wrong, patience_s = _asked(taken, name, number), time.monotonic() + DEADLINE_S
    while '"code":"not_ready"' in wrong or "cannot reach a healthy server" in wrong:
        if time.monotonic() > patience_s:
            return f"{name}: its server gets no requests any more: {wrong}"
        time.sleep(0.2)  # as Retry-After says, though shorter
        wrong = _asked(taken, name, number)
    return wrong


def _asked(taken: Taken, name: str, number: int) -> str:
    try:
        return misbehave(taken.magid, name, model(number))
    except OSError as error:
        return f"{name}: {error!r}"


def attack(taken: Taken, orders: list[Iterable[str]], seconds: float, figures: Figures) -> None:
    """All clients at once, beside the calm one."""
    end_s = time.monotonic() + seconds
    with ThreadPoolExecutor(len(orders) + 1) as pool:
        over = threading.Event()
        counted = pool.submit(calm, taken, over.is_set, figures)
        work = [
            pool.submit(trouble, taken, names, number, end_s, figures)
            for number, names in enumerate(orders)
        ]
        try:
            met = set[str]().union(*(one.result() for one in work))
        finally:
            over.set()
        figures.more["ways"] = len(met)
        figures.more["answers of the calm server"] = counted.result()


def run(
    seed: int,
    folder: Path,
    given: Parts | None = None,
    *,
    seconds: float = math.inf,
    count: int | None = None,
) -> Figures:
    """For that long, or so many requests of all clients together."""
    figures = Figures("servers that were taken over", seed)
    clients = COUNT * CLIENTS
    orders = [islice(order_of(seed), number, count, clients) for number in range(clients)]
    with ExitStack() as stack:
        taken = stack.enter_context(hostile.taken_over(given or parts(), folder))
        for number in range(COUNT):
            hostile.wait_sound(taken.magid, model(number))
        with Pulse(taken.magid.port, taken.pid) as quiet:
            time.sleep(QUIET_S)  # what is measured is this time
        hostile.forget_peak(taken.pid)
        before = hostile.kib(taken.pid, "VmRSS")
        with control() as beside, Pulse(taken.magid.port, taken.pid) as pulse:
            attack(taken, list(orders), seconds, figures)
        figures.failures += pulse.beats.failures + beside.beats.failures
        grown = hostile.kib(taken.pid, "VmHWM") - before
        figures.check(grown < MOST_KIB, f"{grown} KiB more memory")
        log = taken.magid.log.read_text()
        figures.check("Traceback" not in log, "a traceback in the log")
        figures.more["KiB more memory at the worst moment"] = grown
        figures.more |= verdict(pulse.beats, beside.beats)
        figures.more["the same before"] = quiet.beats.shown
        figures.more["load"] = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    return figures


if __name__ == "__main__":
    done = run(int(sys.argv[2]), Path(sys.argv[3]), seconds=float(sys.argv[1]))
    print(done.line())
    sys.exit(bool(done.failures))

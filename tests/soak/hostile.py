"""Servers that were taken over, all at once, beside a calm one whose clients notice nothing.

`python -m tests.soak.hostile REQUESTS SEED FOLDER`. Each hostile server has clients of its own, to
whom it misbehaves in random ways and at the same time. One client asks a calm server all the while,
and one asks magid itself every 5 ms: a loop that is held shows as an answer that comes late.
"""

import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.soak.figures import Figures
from tests.soak.parts import parts
from tests.soak.pulse import Pulse
from tests.support import hostile
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


def order_of(count: int, seed: int) -> list[str]:
    """Every name as often as it fits, in random order."""
    names = [name for name in NAMES if name not in LEFT_OUT]
    dice = random.Random(seed)
    chosen = [*names * (count // len(names)), *dice.sample(names, count % len(names))]
    dice.shuffle(chosen)
    return chosen


def trouble(taken: Taken, names: list[str], number: int, figures: Figures) -> None:
    """One client of one hostile server. That it is left out for a while is no answer to judge."""
    for name in names:
        wrong = judged(taken, name, number)
        while '"code":"not_ready"' in wrong or "cannot reach a healthy server" in wrong:
            time.sleep(0.2)  # as Retry-After says, though shorter
            wrong = judged(taken, name, number)
        figures.check(not wrong, wrong)
        figures.rounds += 1


def judged(taken: Taken, name: str, number: int) -> str:
    try:
        return misbehave(taken.magid, name, model(number))
    except OSError as error:
        return f"{name}: {error!r}"


def run(count: int, seed: int, folder: Path, given: Parts | None = None) -> Figures:
    figures = Figures("servers that were taken over", seed)
    names = order_of(count, seed)
    with hostile.taken_over(given or parts(), folder) as taken:
        for number in range(COUNT):
            hostile.wait_sound(taken.magid, model(number))
        with Pulse(taken.magid.port, taken.pid) as quiet:
            time.sleep(QUIET_S)  # what is measured is this time
        hostile.forget_peak(taken.pid)
        before = hostile.kib(taken.pid, "VmRSS")
        clients = COUNT * CLIENTS
        with Pulse(taken.magid.port, taken.pid) as pulse, ThreadPoolExecutor(clients + 1) as pool:
            over = threading.Event()
            counted = pool.submit(calm, taken, over.is_set, figures)
            work = [
                pool.submit(trouble, taken, names[i::clients], i, figures) for i in range(clients)
            ]
            try:
                for one in work:
                    one.result()
            finally:
                over.set()
            figures.more["answers of the calm server"] = counted.result()
        figures.failures += pulse.beats.failures
        grown = hostile.kib(taken.pid, "VmHWM") - before
        figures.check(grown < MOST_KIB, f"{grown} KiB more memory")
        log = taken.magid.log.read_text()
        figures.check("Traceback" not in log, "a traceback in the log")
        figures.more |= {
            "ways": len(set(names)),
            "KiB more memory at the worst moment": grown,
            "an answer of magid's": pulse.beats.shown,
            "the same before": quiet.beats.shown,
        }
    return figures


if __name__ == "__main__":
    done = run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    print(done.line())
    sys.exit(bool(done.failures))

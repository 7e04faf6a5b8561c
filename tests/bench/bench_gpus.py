"""How long it takes to decide where a server starts: `python -m` this module.

The rules with all predictions known, on a machine of 8 GPUs that 100 models fill: for a start that
is refused, for one that fits, and for a request that makes room.
"""

import os
import platform
import time
from collections.abc import Callable, Sequence
from statistics import median

from magid.gpus.capacity import Capacity, Holder, freed_by
from magid.gpus.eviction import Evictable, Stopping, could_fit, make_room
from magid.gpus.memory_table import Estimate
from magid.gpus.placing import Answer, Question, Wish, decide, steps_up_to
from tests.bench.bench_gguf import cpu
from tests.support.placing import Predictor, gpu, held, machine

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "31"))
TARGET_MS = 5.0
SIZE = 24
MODELS = 100
NAMES = tuple(f"CUDA{at}" for at in range(8))
NEEDS = {f"m{at}": (NAMES[at % 8], 0.8 + at % 3) for at in range(MODELS)}
WISH = Wish("m", steps=steps_up_to(32_768, 131_072, 1))
KNOWN: dict[Question, Estimate] = {}


def holders(gone: frozenset[str] = frozenset()) -> list[Holder]:
    return [held(m, {name: need}) for m, (name, need) in NEEDS.items() if m not in gone]


def capacity(gone: frozenset[str], left: Sequence[Holder]) -> Capacity:
    used = dict.fromkeys(NAMES, 0.0)
    for name, need in (where for model, where in NEEDS.items() if model not in gone):
        used[name] += need
    gpus = [gpu(name, max(0, SIZE - used[name]), SIZE) for name in NAMES]
    return machine(*gpus, holders=left)


def place(gone: frozenset[str]) -> Answer:
    return decide(WISH, capacity(gone, holders(gone)), KNOWN)


ALL = holders()
CANDIDATES = [
    Evictable(model, "busy" if int(model[1:]) % 5 == 0 else "idle", frozenset([name]))
    for model, (name, _) in NEEDS.items()
]


def room() -> object:
    def place(gone: frozenset[str]) -> Answer:
        left = [one for one in ALL if one.model_id not in gone]
        return decide(WISH, capacity(gone, left), KNOWN)

    may_help = could_fit(WISH, capacity(frozenset(), ALL), KNOWN, freed_by(ALL))
    return make_room(CANDIDATES, place, may_help)


def predicted(ask: Callable[[], object]) -> object:
    """The answer, once all that it depends on is predicted."""
    predict = Predictor(5)
    while isinstance(found := ask(), Question):
        KNOWN[found] = predict(found)
    return found


def milliseconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - begin))
    return median(times)


def main() -> None:
    print(f"{cpu()}, Python {platform.python_version()}, medians of {ROUNDS}")
    fitting = frozenset(model for model, (name, _) in NEEDS.items() if name == NAMES[0])
    ways: dict[str, Callable[[], object]] = {
        "a start without room": lambda: place(frozenset()),
        "a start with room": lambda: place(fitting),
        "room for a request": room,
    }
    for what, ask in ways.items():
        found = predicted(ask)
        assert isinstance(found, Stopping) is (ask is room)
        took = milliseconds(ask)
        verdict = "met" if took <= TARGET_MS else "MISSED"
        print(f"  {what:22} {took:6.2f} ms   target {TARGET_MS:g} ms: {verdict}")


if __name__ == "__main__":
    main()

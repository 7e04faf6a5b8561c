"""Decides which idle servers have to stop so that another one has room. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import chain, combinations, groupby, islice
from typing import Final, Literal

from msgspec import Struct

from magid.gpus.capacity import Capacity
from magid.gpus.placing import (
    Answer,
    Known,
    NoDevice,
    NoRoom,
    Question,
    UnknownRoom,
    Wish,
    least_need,
)
from magid.llama.placement import Placement

_TRIES: Final = 50  # decisions
_LOOKED_AT: Final = 5_000  # sets
_MOST_AT_ONCE: Final = 3

Freed = Mapping[str, Mapping[str, int]]
Use = Literal["idle", "busy"]


class Evictable(Struct, frozen=True):
    """An on-demand model that may be stopped when it is idle."""

    model_id: str
    use: Use
    devices: frozenset[str] = frozenset()  # their names; empty: not known


class Stopping(Struct, frozen=True):
    """These models have to stop; none: there is room already."""

    model_ids: tuple[str, ...]
    placement: Placement


class Waiting(Struct, frozen=True):
    """There is room once these, which answer or load now, are idle. `reason` as in NoRoom."""

    model_ids: tuple[str, ...]
    reason: str


Place = Callable[[frozenset[str]], Answer]
"""Decides where the server would start if the servers of these models had stopped."""

Verdict = Stopping | Waiting | Question | NoRoom | NoDevice | UnknownRoom


MayHelp = Callable[[frozenset[str]], bool]
"""Returns False only where `place` would find no room; see `could_fit`."""


def make_room(
    candidates: Sequence[Evictable], place: Place, may_help: MayHelp = lambda gone: True
) -> Verdict:
    """Returns which models have to stop. `candidates` come in the order of their last use.

    As few as will do, and of those the ones that were used longest ago. None if not even all of
    them would do. `may_help` saves decisions and changes none.
    """
    now = place(frozenset())
    if not isinstance(now, NoRoom):
        return Stopping((), now) if isinstance(now, Placement) else now
    idle = tuple(one.model_id for one in candidates if one.use == "idle")
    everyone = tuple(one.model_id for one in candidates)
    last = place(frozenset(everyone))
    if not isinstance(last, Placement):
        return now if isinstance(last, NoRoom) else last
    with_idle = place(frozenset(idle))
    if isinstance(with_idle, NoRoom):
        return Waiting(tuple(i for i in everyone if i not in idle), now.reason)
    if not isinstance(with_idle, Placement):
        return with_idle
    return _fewest([one for one in candidates if one.use == "idle"], place, may_help)


def could_fit(wish: Wish, capacity: Capacity, known: Known, freed: Freed) -> MayHelp:
    """Returns a quick test by an upper bound: what is free now, and all that the models hold.

    `freed` is what each model holds, by the id of the device. One device alone needs least, so a
    set of devices with less room together has none.
    """
    need = least_need(wish, capacity, known)
    rooms = {room.device.id: room.room for room in capacity.devices}
    present = sum(room or 0 for room in rooms.values())
    if None in rooms.values() or need is None:
        return lambda gone: True

    def may_help(gone: frozenset[str]) -> bool:
        back = (size for i in gone for d, size in freed.get(i, {}).items() if d in rooms)
        return present + sum(back) >= need

    return may_help


def _fewest(
    idle: Sequence[Evictable], place: Place, may_help: MayHelp
) -> Stopping | Question | NoDevice | UnknownRoom:
    """Returns the first set that will do; all of `idle` together do."""
    hopeful = (chosen for chosen in _small_sets(idle) if may_help(frozenset(chosen)))
    for chosen in islice(hopeful, _TRIES):
        found = place(frozenset(chosen))
        if isinstance(found, Placement):
            return Stopping(_needed(chosen, place), found)
        if not isinstance(found, NoRoom):
            return found
    many = _on_one_device(idle, place, may_help) or [one.model_id for one in idle]
    last = place(frozenset(many))
    if isinstance(last, NoRoom):
        raise AssertionError("all of them were enough before")
    return Stopping(_needed(many, place), last) if isinstance(last, Placement) else last


def _on_one_device(idle: Sequence[Evictable], place: Place, may_help: MayHelp) -> list[str]:
    """Returns the fewest of one device that will do, of each those that were used longest ago."""
    best: list[str] = []
    for group in _groups(idle):
        names = [idle[at].model_id for at in group]
        for count in range(_MOST_AT_ONCE + 1, len(best) or len(names) + 1):
            chosen = frozenset(names[:count])
            if may_help(chosen) and isinstance(place(chosen), Placement):
                best = names[:count]
                break
    return best


def _groups(idle: Sequence[Evictable]) -> list[list[int]]:
    """Returns the indices of those on each device; one whose devices are not known is on all."""
    known = sorted(frozenset[str]().union(*(one.devices for one in idle)))
    return [
        [at for at, one in enumerate(idle) if not one.devices or name in one.devices]
        for name in known
    ] or [list(range(len(idle)))]


def _small_sets(idle: Sequence[Evictable]) -> Iterator[tuple[str, ...]]:
    """Yields sets of one, two and three; of several, those that share a device.

    Those that were used longest ago come first.
    """
    groups = _groups(idle)
    sets = chain.from_iterable(
        merge(*(combinations(group, count) for group in groups))
        for count in range(1, _MOST_AT_ONCE + 1)
    )
    distinct = (chosen for chosen, _ in groupby(sets))
    for chosen in islice(distinct, _LOOKED_AT):
        yield tuple(idle[at].model_id for at in chosen)


def _needed(chosen: Sequence[str], place: Place) -> tuple[str, ...]:
    """Leaves out what would stop in vain, beginning with those that were used last."""
    needed = list(chosen)
    if len(needed) == 1:
        return tuple(needed)  # without it there was no room
    for model_id in reversed(chosen):
        rest = frozenset(needed) - {model_id}
        if isinstance(place(rest), Placement):
            needed.remove(model_id)
    return tuple(needed)

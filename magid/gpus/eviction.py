"""Decides which idle servers have to stop so that another one has room. Pure."""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, islice
from typing import Final, Literal

from msgspec import Struct

from magid.gpus.placing import Answer, NoDevice, NoRoom, Question, UnknownRoom
from magid.llama.placement import Placement

_TRIES: Final = 200
_MOST_AT_ONCE: Final = 3

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


def make_room(candidates: Sequence[Evictable], place: Place) -> Verdict:
    """Returns which models have to stop. `candidates` come in the order of their last use.

    As few as will do, and of those the ones that were used longest ago. None if not even all of
    them would do.
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
    return _fewest([one for one in candidates if one.use == "idle"], place)


def _fewest(
    idle: Sequence[Evictable], place: Place
) -> Stopping | Question | NoDevice | UnknownRoom:
    """Returns the first set that will do; all of `idle` together do."""
    for chosen in (*_small_sets(idle), tuple(one.model_id for one in idle)):
        found = place(frozenset(chosen))
        if isinstance(found, Placement):
            return Stopping(_needed(chosen, place), found)
        if not isinstance(found, NoRoom):
            return found
    raise AssertionError("all of them were enough before")


def _small_sets(idle: Sequence[Evictable]) -> Iterator[tuple[str, ...]]:
    """Yields sets of one, two and three; of several, those that share a device."""
    sets = (
        tuple(one.model_id for one in chosen)
        for count in range(1, _MOST_AT_ONCE + 1)
        for chosen in combinations(idle, count)
        if _share(chosen)
    )
    return islice(sets, _TRIES)


def _share(chosen: Sequence[Evictable]) -> bool:
    known = [one.devices for one in chosen if one.devices]
    return len(known) < 2 or bool(frozenset.intersection(*known))


def _needed(chosen: Sequence[str], place: Place) -> tuple[str, ...]:
    """Leaves out what would stop in vain, beginning with those that were used last."""
    needed = list(chosen)
    for model_id in reversed(chosen):
        rest = frozenset(needed) - {model_id}
        if isinstance(place(rest), Placement):
            needed.remove(model_id)
    return tuple(needed)

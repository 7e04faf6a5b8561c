"""Which starts run side by side. Pure.

Starts that load onto the same device take turns: side by side they would load at each other's cost,
and one that llama-server places fits itself to the memory that is free while it loads. A server
without a device loads with the processors. Side by side that is faster only while each has its
share of them: two servers with llama-server's own number of threads, one for each core, take four
times as long together as one after the other (0.99 s and 0.23 s, 2 cores).
"""

from collections.abc import Hashable, Mapping
from typing import TypeVar

from msgspec import Struct

from magid.llama.placement import Placement
from magid.llama.spec import ServerSpec

NONE = "none"  # llama-server's name for "no device"

Key = TypeVar("Key", bound=Hashable)


class Processors(Struct, frozen=True):
    """What a machine has for servers without a device. `has_devices`: it has GPUs, or may have."""

    cores: int
    free_bytes: int
    has_devices: bool


class Turn(Struct, frozen=True):
    """What one start takes while it loads."""

    devices: frozenset[str]  # empty: llama-server chooses among all of them
    threads: int | None = None  # None: as many as there are cores
    need_bytes: int | None = None  # of the machine's memory; None: unknown

    def is_without_device(self, processors: Processors) -> bool:
        return self.devices == {NONE} or (not self.devices and not processors.has_devices)


def turn_of(spec: ServerSpec, need_bytes: int | None, placement: Placement | None = None) -> Turn:
    """Returns what this start takes. `need_bytes` is what its weights need."""
    names = spec.device.split(",") if spec.device else ()
    if placement is not None and placement.decides_place:
        names = [one.name for one in placement.devices] or [NONE]
    return Turn(frozenset(names), spec.n_threads, need_bytes)


def waits_for(mine: Turn, earlier: Mapping[Key, Turn], processors: Processors) -> frozenset[Key]:
    """Returns those of the earlier, unfinished starts of which one has to end before this one.

    Empty: it may begin. To be asked again whenever one of them has ended.
    """
    if not mine.is_without_device(processors):
        return frozenset(
            key
            for key, turn in earlier.items()
            if not turn.is_without_device(processors) and _share(mine.devices, turn.devices)
        )
    beside = {k: turn for k, turn in earlier.items() if turn.is_without_device(processors)}
    all_turns = (mine, *beside.values())
    return frozenset() if not beside or _have_room(all_turns, processors) else frozenset(beside)


def _have_room(turns: tuple[Turn, ...], processors: Processors) -> bool:
    threads = sum(turn.threads or processors.cores for turn in turns)
    needs = [turn.need_bytes for turn in turns if turn.need_bytes is not None]
    is_known = len(needs) == len(turns)
    return threads <= processors.cores and is_known and sum(needs) <= processors.free_bytes


def _share(some: frozenset[str], others: frozenset[str]) -> bool:
    return not some or not others or not some.isdisjoint(others)

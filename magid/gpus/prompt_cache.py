"""How much of the machine's memory a server's prompt cache may take. Pure.

llama-server keeps the states of prompts whose slot another prompt has taken, up to 8 GiB unless
`--cache-ram` says otherwise, also where the model is on a GPU. Its table leaves them out.

One state it keeps in any case, however large, unless the size is 0: then it keeps none.

Source: llama.cpp, pull request 16391, and `llama-server --help` of 0.7.0.
"""

import dataclasses
from typing import Final

from msgspec.structs import replace

from magid.gpus.capacity import Capacity
from magid.llama.placement import Placement
from magid.llama.server_shape import CACHE_RAM

PART: Final = 8  # of what is left, so that the models that start later have room too
_STEP: Final = 256 << 20
_LEAST: Final = 128 << 20


def beside(capacity: Capacity, size: int) -> Capacity:
    """Returns the room beside a cache of this size."""
    return replace(capacity, host=max(0, capacity.host - size), cache=size)


def with_cache(placement: Placement, capacity: Capacity, size: int | None) -> Placement:
    """Returns the placement with the bound of its cache, which counts in what it needs.

    `size` is the user's own, which `capacity` leaves out; None: a part of what is left there, and
    not more than llama-server would take by itself.
    """
    if size is None:
        left = capacity.host - placement.host - _shared(placement, capacity)
        size = _part(left)
        if size < CACHE_RAM:
            placement = dataclasses.replace(placement, cache_ram=size >> 20)
    size = min(size, CACHE_RAM)
    later = None if placement.host_later is None else placement.host_later + size
    return dataclasses.replace(placement, host=placement.host + size, host_later=later)


def _part(left: int) -> int:
    """Returns the part of what is left, in steps, so that it seldom changes; 0: too little is."""
    if left < _LEAST:
        return 0
    return max(_LEAST, left // PART // _STEP * _STEP)


def bound_alone(placement: Placement) -> Placement | None:
    """Returns what the start gets of a server for which nothing but the bound was decided.

    What counts stays in it, so that it counts after a restart of magid too.
    """
    if placement.cache_ram is None:
        return None
    return dataclasses.replace(placement, extent="own", source="unknown")


def _shared(placement: Placement, capacity: Capacity) -> int:
    """Returns what it takes of the machine's memory as that of a GPU."""
    integrated = {room.device.id for room in capacity.devices if room.integrated}
    return sum(device.need for device in placement.devices if device.id in integrated)

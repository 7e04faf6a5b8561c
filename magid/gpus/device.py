"""Devices of llama-server, and the physical GPUs behind them. Pure."""

import re
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

# A GPU that several back ends list is used by the first of these.
_PREFERRED: Final = ("CUDA", "ROCm", "SYCL")
REMOTE: Final = "RPC"
_ASIDE: Final = re.compile(r"\([^()]*\)")  # "(RADV NAVI31)", "(TM)"


class Device(Struct, frozen=True):
    """One device that llama-server can use. Memory in bytes; None: unknown."""

    name: str  # what `--device` takes
    backend: str  # the name without its number
    description: str
    total: int | None = None
    free: int | None = None
    integrated: bool | None = None
    address: str | None = None  # of PCI, in lower case
    uuid: str | None = None
    remote_id: str = ""  # of one at another machine: its RPC server's address, and which one
    shared_id: str = ""  # of a GPU that several engines list; see `gpus/engines`

    @property
    def is_partition(self) -> bool:
        """Whether it is a part of a GPU (MIG) and not a whole one."""
        return " MIG " in f" {self.description} " or (self.uuid or "").startswith("MIG-")

    @property
    def id(self) -> str:
        """The name that stays over reboots, as far as one is known."""
        return (
            self.shared_id
            or self.remote_id
            or self.uuid
            or (None if self.is_partition else self.address)
            or self.name
        )


class Gpu(Struct, frozen=True):
    """One physical GPU, or a part of one. `same` is that GPU by other back ends."""

    device: Device
    same: tuple[Device, ...] = ()
    known_as: frozenset[str] = frozenset()  # its ids in the lists of all engines

    @property
    def ids(self) -> frozenset[str]:
        """All ids by which a server may have been placed on it."""
        return self.known_as | {self.device.id}

    @property
    def devices(self) -> tuple[Device, ...]:
        return (self.device, *self.same)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.device.name, *(device.name for device in self.same))

    @property
    def all_names(self) -> tuple[str, ...]:
        """All that the setting `device` may call it: its names, its id and its address."""
        address = (self.device.address,) if self.device.address else ()
        return (*self.names, self.device.id, *address)


def gpus_of(devices: Iterable[Device]) -> tuple[Gpu, ...]:
    """Returns the physical GPUs, in the order of their preferred devices.

    Devices of different back ends are one GPU if their addresses or UUIDs say so; where one of
    them has neither, if they have the same name. A GPU is once in each back end.
    """
    groups: list[list[Device]] = []
    for device in sorted(devices, key=_rank):
        group = next((one for one in groups if _belongs(device, one)), None)
        if group is None:
            groups.append([device])
        else:
            group.append(device)
    return tuple(Gpu(first, tuple(rest)) for first, *rest in groups)


def _rank(device: Device) -> int:
    known = device.backend in _PREFERRED
    return _PREFERRED.index(device.backend) if known else len(_PREFERRED)


def _belongs(device: Device, group: list[Device]) -> bool:
    if any(device.backend == other.backend for other in group):
        return False
    return is_same(device, group[0])


def is_same(one: Device, other: Device) -> bool:
    """Whether two devices of different back ends are one GPU."""
    if REMOTE in (one.backend, other.backend) or one.is_partition or other.is_partition:
        return False
    for mine, theirs in ((one.uuid, other.uuid), (one.address, other.address)):
        if mine and theirs:
            return mine == theirs
    return _plain(one.description) == _plain(other.description)


def _plain(description: str) -> str:
    return " ".join(_ASIDE.sub(" ", description).lower().split())

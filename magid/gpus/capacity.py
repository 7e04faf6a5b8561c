"""What room is left on each device and in the machine's memory beside what servers hold. Pure."""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from magid.gpus.device import REMOTE, Device, Gpu
from magid.llama.placement import Placement
from magid.wording.sizes import size


class Holder(Struct, frozen=True):
    """A server that holds memory, or will: `is_settled` once it has taken what it needs."""

    model_id: str
    port: int
    placement: Placement
    is_settled: bool
    host_taken: int = 0  # of the machine's memory, what it holds now and the kernel cannot drop

    @property
    def host_pending(self) -> int:
        """Returns what of the machine's memory it has not taken yet, in bytes.

        Where it is not known what a ready one holds, it counts as having taken all.
        """
        left = max(0, self.placement.host - self.host_taken)
        if not self.is_settled:
            return left
        later = self.placement.host_later
        return min(left, left if later is None else later) if self.host_taken else 0


class DeviceRoom(Struct, frozen=True):
    """One GPU with its room for one more server, in bytes; None: not known."""

    device: Device
    room: int | None
    holders: tuple[tuple[str, int], ...] = ()  # model, need
    integrated: bool = False
    others: tuple[str, ...] = ()  # its names in other back ends
    chosen: str = ""  # one of them, if the user wants that back end
    overhead: int = 0  # of one server, beyond what is predicted

    @property
    def name(self) -> str:
        return self.chosen or self.device.name

    @property
    def rank(self) -> int:
        """Discrete ones first, then those in the machine's memory, then those of other machines."""
        return 2 if self.device.backend == REMOTE else int(self.integrated)

    @property
    def kind(self) -> tuple[str, str, int | None]:
        """Servers need equally much on devices of one kind."""
        return (self.device.backend, self.device.description, self.device.total)

    @property
    def described(self) -> str:
        """Returns "CUDA0 has room for 12.1 GiB of 23.5 GiB (beta 9.0 GiB, other programs ...)"."""
        if self.room is None:
            return f"of {self.name} it is not known what is free"
        total, free = self.device.total or 0, self.device.free or 0
        others = total - free - sum(need for _, need in self.holders)
        parts = [f"{model} {size(need)}" for model, need in self.holders]
        parts += [f"other programs {size(others)}"] if others >= _WORTH_SAYING else []
        aside = f" ({', '.join(parts)})" if parts else ""
        return f"{self.name} has room for {size(self.room)} of {size(total)}{aside}"


class Capacity(Struct, frozen=True):
    """The room for one more server. `host` is the machine's memory, in bytes."""

    devices: tuple[DeviceRoom, ...]
    host: int
    is_limited: bool = False  # to less than the machine has, by the server's own limit
    cache: int = 0  # set aside of it, for the prompt cache that the server's settings allow

    @property
    def host_described(self) -> str:
        """Returns "which has room for 4.0 GiB beside 1.0 GiB of its prompt cache (--cache-ram)"."""
        where = "of which its memoryMax allows" if self.is_limited else "which has room for"
        aside = f" beside {size(self.cache)} of its prompt cache (--cache-ram)"
        return f"{where} {size(self.host)}{aside if self.cache else ''}"

    def without(self, ids: Container[str]) -> "Capacity":
        """Returns it with no room on these devices."""
        rooms = (replace(r, room=0) if r.device.id in ids else r for r in self.devices)
        return replace(self, devices=tuple(rooms))

    def named(self, name: str) -> DeviceRoom | None:
        """Returns the GPU with this name, by the back end that lists it so."""
        for room in self.devices:
            for known in (room.name, *room.others):
                if known.lower() == name.lower():
                    return room if known == room.name else replace(room, chosen=known)
        return None


_WORTH_SAYING: Final = 64 << 20
_MOST_RESERVED: Final = 1 << 30
_PART_RESERVED: Final = 16


def capacity_of(
    gpus: Sequence[Gpu],
    host: int,
    holders: Iterable[Holder],
    reserve: int,
    host_reserve: int = 0,
    limit: int | None = None,
    overheads: Mapping[str, int] | None = None,
) -> Capacity:
    """Returns the room that is left. `limit` is the most of the machine's memory for this server.

    `overheads` is what one server takes beyond its prediction, by back end.

    Of what is free, a server that has not settled yet will take its whole need; of the machine's
    memory so will one that is ready: the kernel gives what it computes with, and its prompt cache,
    when they are used first. Whatever a driver says is free, servers together never get more than
    the whole.
    """
    held = tuple(holders)
    rooms = tuple(
        _room(gpu, _held_on(gpu, held), reserve, (overheads or {}).get(gpu.device.backend))
        for gpu in gpus
    )
    pending = sum(one.host_pending for one in held)
    left = max(0, host - pending - host_reserve)
    if limit is not None and limit < left:
        return Capacity(rooms, limit, is_limited=True)
    return Capacity(rooms, left)


def _held_on(gpu: Gpu, holders: Iterable[Holder]) -> list[tuple[Holder, int]]:
    """Returns those that hold memory there, and how much, also by another engine's name of it."""
    return [
        (holder, device.need)
        for holder in holders
        for device in holder.placement.devices
        if device.id in gpu.ids
    ]


def host_reserve(total: int) -> int:
    """Returns what of the machine's memory stays free for other programs, in bytes."""
    return min(_MOST_RESERVED, total // _PART_RESERVED)


def _room(
    gpu: Gpu, needs: Sequence[tuple[Holder, int]], reserve: int, overhead: int | None
) -> DeviceRoom:
    device = gpu.device
    pending = sum(need for one, need in needs if not one.is_settled)
    ours = sum(need for _, need in needs)
    room = None
    if device.free is not None and device.total is not None:
        room = max(0, min(device.free - pending, device.total - ours) - reserve)
    is_integrated = any(one.integrated for one in (device, *gpu.same))
    shown = tuple((one.model_id, need) for one, need in needs)
    return DeviceRoom(device, room, shown, is_integrated, gpu.names[1:], overhead=overhead or 0)


def freed_by(holders: Iterable[Holder], gpus: Iterable[Gpu] = ()) -> dict[str, dict[str, int]]:
    """Returns model -> id of a GPU -> what all its servers hold there, in bytes."""
    ids = ids_of(gpus)
    freed: dict[str, dict[str, int]] = {}
    for one in holders:
        for device in one.placement.devices:
            held, known = freed.setdefault(one.model_id, {}), ids.get(device.id, device.id)
            held[known] = held.get(known, 0) + device.need
    return freed


def ids_of(gpus: Iterable[Gpu]) -> dict[str, str]:
    """Returns the present id of each GPU by all ids that it has had."""
    return {known: gpu.device.id for gpu in gpus for known in gpu.ids}


def need_on(gpu: Gpu, placement: Placement) -> int:
    """Returns what a placed server needs on this GPU, in bytes."""
    return sum(one.need for one in placement.devices if one.id in gpu.ids)

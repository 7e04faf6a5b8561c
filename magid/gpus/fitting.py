"""Whether a server has room now, by its predicted memory and what is free. Pure."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct

from magid.gpus.device import Gpu
from magid.gpus.memory_table import DeviceNeed, Estimate
from magid.wording.sizes import size

RESERVE: Final = 1 << 30  # llama-server too wants to leave so much free on each device
_HOST: Final = "the machine's memory"


class Fits(StrEnum):
    """In the order of what counts: one place without room decides."""

    YES = "yes"
    TIGHT = "tight"  # less than RESERVE is left
    PART = "part"  # in part or as a whole on the processor, as its setting offload allows
    UNKNOWN = "unknown"
    NO = "no"


class Room(Struct, frozen=True):
    """What is free now. Memory in bytes."""

    gpus: Sequence[Gpu]
    host: int
    limit: int | None = None  # of the server's own (memory_max)


class Verdict(Struct, frozen=True):
    """`why` names each place that decided, with its figures."""

    fits: Fits
    why: str


def judge(estimate: Estimate, room: Room) -> Verdict:
    """Returns whether the server has room in all places."""
    judged = [*_on_gpus(estimate, room.gpus), *_on_host(estimate, room)]
    worst = max((one.fits for one in judged), key=list(Fits).index)
    return Verdict(worst, "; ".join(one.why for one in judged if one.fits is worst))


def free_on(name: str, gpus: Sequence[Gpu]) -> int | None:
    """Returns what is free on the GPU with a device of this name; None if that is not known."""
    gpu = _gpu_of(name, gpus)
    return None if gpu is None else gpu.device.free


def _on_gpus(estimate: Estimate, gpus: Sequence[Gpu]) -> Iterator[Verdict]:
    """Judges each GPU once: llama-server may count one by two back ends."""
    found = [(device, _gpu_of(device.name, gpus)) for device in estimate.devices]
    for device, gpu in found:
        if gpu is None:
            yield _judged(device.name, device.need.total, None, RESERVE)
    for gpu in gpus:
        held = [device for device, its in found if its is gpu]
        if held:
            need = sum(device.need.total for device in held)
            yield _judged(" = ".join(d.name for d in held), need, gpu.device.free, RESERVE)


def _on_host(estimate: Estimate, room: Room) -> Iterator[Verdict]:
    """Judges the machine's memory, which integrated GPUs use too, and the server's own limit."""
    need = estimate.host_total.total
    shared = sum(d.need.total for d in estimate.devices if _is_integrated(d, room.gpus))
    yield _judged(_HOST, need + shared, room.host, RESERVE)
    if room.limit is not None:
        yield _judged("memoryMax", need, room.limit, 0, "allowed")


def _judged(place: str, need: int, free: int | None, reserve: int, word: str = "free") -> Verdict:
    said = f"{place}: {size(need)} needed"
    if free is None:
        return Verdict(Fits.UNKNOWN, f"{said}, and what is free is not known")
    said = f"{said}, {size(free)} {word}"
    if need > free:
        return Verdict(Fits.NO, said)
    if need + reserve > free:
        return Verdict(Fits.TIGHT, f"{said}, which leaves less than {size(reserve)}")
    return Verdict(Fits.YES, said)


def _is_integrated(device: DeviceNeed, gpus: Sequence[Gpu]) -> bool:
    gpu = _gpu_of(device.name, gpus)
    return gpu is not None and any(d.integrated for d in (gpu.device, *gpu.same))


def _gpu_of(name: str, gpus: Sequence[Gpu]) -> Gpu | None:
    return next((gpu for gpu in gpus if name in gpu.names), None)

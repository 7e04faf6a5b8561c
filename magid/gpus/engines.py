"""The GPUs of a machine as several engines list them: one physical GPU is one. Pure.

Each engine is a llama-server with back ends of its own, so one may list `CUDA0` with a UUID and
another one the same GPU as `Vulkan0` without any. What servers hold there counts for both.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from magid.gpus.device import Device, Gpu, is_same

Listed = Sequence[Gpu]


def united(lists: Sequence[Listed]) -> list[tuple[Gpu, ...]]:
    """Returns these lists with one id for each physical GPU. The first list's devices count most.

    Within a list each GPU is another one.
    """
    groups: list[list[Gpu]] = []
    found = [_places_of(gpus, groups) for gpus in lists]
    return [
        tuple(_known(gpu, groups[at]) for gpu, at in zip(gpus, places, strict=True))
        for gpus, places in zip(lists, found, strict=True)
    ]


def together(lists: Sequence[Listed]) -> tuple[Gpu, ...]:
    """Returns each physical GPU once, by its first list, with the devices of all of them."""
    found: dict[str, Gpu] = {}
    for gpu in (gpu for gpus in united(lists) for gpu in gpus):
        first = found.setdefault(gpu.device.id, gpu)
        names = {device.name for device in first.devices}
        more = tuple(device for device in gpu.devices if device.name not in names)
        found[gpu.device.id] = replace(first, same=(*first.same, *more))
    return tuple(found.values())


def _places_of(gpus: Listed, groups: list[list[Gpu]]) -> list[int]:
    """Adds each GPU to the group that it belongs to, or to a new one; returns their numbers."""
    places: list[int] = []
    for gpu in gpus:
        free = (at for at in range(len(groups)) if at not in places)
        at = next((at for at in free if _belongs(gpu, groups[at])), len(groups))
        if at == len(groups):
            groups.append([])
        groups[at].append(gpu)
        places.append(at)
    return places


def _belongs(gpu: Gpu, group: list[Gpu]) -> bool:
    return any(
        _is_one(device, other) for device in gpu.devices for one in group for other in one.devices
    )


def _is_one(device: Device, other: Device) -> bool:
    """Whether devices of two engines are one GPU. Each back end numbers in an order of its own."""
    if device.backend != other.backend:
        return is_same(device, other)
    if device.remote_id or other.remote_id:
        return device.remote_id == other.remote_id
    if device.uuid and other.uuid:
        return device.uuid == other.uuid
    if device.address and other.address and not (device.is_partition or other.is_partition):
        return device.address == other.address
    return (device.name, device.description) == (other.name, other.description)


def _known(gpu: Gpu, group: list[Gpu]) -> Gpu:
    """Returns the GPU with what the other engines know of it."""
    devices = [device for one in group for device in one.devices]
    device = replace(
        gpu.device,
        shared_id=_best_id(devices),
        uuid=gpu.device.uuid or next((one.uuid for one in devices if one.uuid), None),
        address=gpu.device.address or next((one.address for one in devices if one.address), None),
    )
    return replace(gpu, device=device, known_as=frozenset(one.device.id for one in group))


def _best_id(devices: list[Device]) -> str:
    ids = [one.id for one in devices if one.id != one.name]
    uuids = [one.uuid for one in devices if one.uuid]
    return (uuids or ids or [devices[0].name])[0]

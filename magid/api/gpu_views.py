"""Converts the list of GPUs to the answers of the API. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from magid.api.schemas import gpus as schemas
from magid.api.views import when
from magid.control.devices import DeviceList
from magid.gpus.capacity import Capacity, DeviceRoom, need_on
from magid.gpus.device import Device, Gpu
from magid.gpus.memory_table import Need
from magid.servers.backend import ObservedServer, ServerState

KindsOf = Callable[[ObservedServer], Mapping[str, Need]]  # by the id of the device


def gpus_reply(
    listed: DeviceList,
    servers: Iterable[ObservedServer],
    capacity: Capacity,
    reserve: int,
    kinds_of: KindsOf,
) -> schemas.GpusReply:
    """`capacity` is the room on the GPUs that are listed."""
    running = sorted((s for s in servers if s.state.is_running), key=lambda s: s.port)
    chosen = [(server, _devices_of(server)) for server in running]
    anywhere = [server for server, devices in chosen if devices is None]
    at = listed.listed_at
    return {
        "gpus": [
            _gpu(gpu, room, [s for s, devices in chosen if _has(gpu, devices)], anywhere, kinds_of)
            for gpu, room in zip(listed.gpus, capacity.devices, strict=True)
        ],
        "serversAnywhere": [_server(server) for server in anywhere],
        "listedAt": None if at is None else when(datetime.fromtimestamp(at, UTC)),
        "problem": listed.problem or None,
        "reserveBytes": reserve,
    }


def _devices_of(server: ObservedServer) -> frozenset[str] | None:
    """Returns the ids or names of its devices; None if llama-server has chosen them."""
    placement = server.place
    if placement is not None and placement.extent != "own":
        return frozenset(one.id.lower() for one in placement.devices)
    value = dict(server.values).get("device")
    return None if value is None else frozenset(value.lower().split(","))


def _has(gpu: Gpu, devices: frozenset[str] | None) -> bool:
    return devices is not None and any(word.lower() in devices for word in (*gpu.names, *gpu.ids))


def _gpu(
    gpu: Gpu,
    room: DeviceRoom,
    servers: Sequence[ObservedServer],
    anywhere: Sequence[ObservedServer],
    kinds_of: KindsOf,
) -> schemas.ListedGpu:
    device = gpu.device
    total, free = device.total, device.free
    used = None if total is None or free is None else total - free
    return {
        **_name(device),
        "id": device.id,
        "kind": _kind(gpu),
        "address": device.address,
        "uuid": device.uuid,
        "isPartition": device.is_partition,
        "totalBytes": total,
        "freeBytes": free,
        "usedBytes": used,
        "othersBytes": None if used is None else _others(gpu, used, servers, anywhere),
        "roomBytes": room.room,
        "overheadBytes": room.overhead,
        "servers": [_holder(server, gpu, kinds_of(server)) for server in servers],
        "alsoListedAs": [_name(other) for other in gpu.same],
    }


def _kind(gpu: Gpu) -> schemas.Kind | None:
    """Only some back ends tell, so any device of the GPU may."""
    known = [d.integrated for d in (gpu.device, *gpu.same) if d.integrated is not None]
    if not known:
        return None
    return "integrated" if known[0] else "discrete"


def _name(device: Device) -> schemas.GpuName:
    return {
        "name": device.name,
        "backend": device.backend,
        "description": device.description,
    }


def _others(
    gpu: Gpu,
    used: int,
    servers: Sequence[ObservedServer],
    anywhere: Sequence[ObservedServer],
) -> int | None:
    """Returns what other programs use; None while a server takes what was not predicted."""
    if anywhere or any(server.state is not ServerState.READY for server in servers):
        return None
    needs = [_need(server, gpu) for server in servers]
    known = [need for need in needs if need is not None]
    return None if len(known) < len(needs) else max(0, used - sum(known))


def _need(server: ObservedServer, gpu: Gpu) -> int | None:
    return None if server.place is None else need_on(gpu, server.place)


def _holder(server: ObservedServer, gpu: Gpu, kinds_by_id: Mapping[str, Need]) -> schemas.GpuHolder:
    kinds = next((need for known, need in kinds_by_id.items() if known in gpu.ids), None)
    return {
        **_server(server),
        "needBytes": _need(server, gpu),
        "modelBytes": None if kinds is None else kinds.model,
        "contextBytes": None if kinds is None else kinds.context,
        "computeBytes": None if kinds is None else kinds.compute,
    }


def _server(server: ObservedServer) -> schemas.GpuServer:
    return {"modelId": server.model_id, "port": server.port}

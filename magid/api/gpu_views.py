"""Converts the list of GPUs to the answers of the API. Pure."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from magid.api.schemas import gpus as schemas
from magid.api.views import when
from magid.control.devices import DeviceList
from magid.gpus.device import Device, Gpu
from magid.servers.backend import ObservedServer


def gpus_reply(listed: DeviceList, servers: Iterable[ObservedServer]) -> schemas.GpusReply:
    running = sorted((s for s in servers if s.state.is_running), key=lambda s: s.port)
    chosen = [(server, _devices_of(server)) for server in running]
    anywhere = [server for server, devices in chosen if devices is None]
    at = listed.listed_at
    return {
        "gpus": [
            _gpu(gpu, [s for s, devices in chosen if _has(gpu, devices)], anywhere)
            for gpu in listed.gpus
        ],
        "serversAnywhere": [_server(server) for server in anywhere],
        "listedAt": None if at is None else when(datetime.fromtimestamp(at, UTC)),
        "problem": listed.problem or None,
    }


def _devices_of(server: ObservedServer) -> frozenset[str] | None:
    """Returns the names in the server's setting `device`; None if it has none, or is unknown."""
    value = dict(server.values).get("device")
    return None if value is None else frozenset(value.lower().split(","))


def _has(gpu: Gpu, devices: frozenset[str] | None) -> bool:
    return devices is not None and any(name.lower() in devices for name in gpu.names)


def _gpu(
    gpu: Gpu, servers: Sequence[ObservedServer], anywhere: Sequence[ObservedServer]
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
        "othersBytes": None if servers or anywhere else used,
        "servers": [_server(server) for server in servers],
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


def _server(server: ObservedServer) -> schemas.GpuServer:
    return {"modelId": server.model_id, "port": server.port}

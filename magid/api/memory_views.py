"""Converts predictions of memory to the answers of the API. Pure."""

from datetime import UTC, datetime
from itertools import pairwise

from magid.api.schemas import gpus as schemas
from magid.api.views import when
from magid.control.prediction_cache import Prediction
from magid.gpus.capacity import Capacity
from magid.gpus.fitting import Room, Verdict, free_on
from magid.gpus.memory_table import Estimate, Need
from magid.llama.placement import Placement
from magid.llama.spec import ServerSpec


def model_memory(
    spec: ServerSpec,
    prediction: Prediction,
    room: Room,
    capacity: Capacity,
    verdict: Verdict,
    placement: Placement | None,
    source: schemas.Source | None = "predicted",
) -> schemas.ModelMemory:
    """`placement` is where it runs, or would start."""
    estimate = prediction.estimate
    predicted = estimate is not None
    chosen = None if placement is None else placement.ctx_size
    return {
        "modelId": spec.model_id,
        "ctxSize": chosen or spec.ctx_size,
        "parallel": spec.parallel,
        "fits": verdict.fits.value,
        "why": verdict.why,
        "source": source,
        "predictedAt": when(datetime.fromtimestamp(prediction.at, UTC)) if predicted else None,
        "devices": [] if estimate is None else _devices(estimate, room, capacity),
        "host": None if estimate is None else _host(estimate, room),
        "draftBytes": None if estimate is None else estimate.draft,
        "fittingCtxSize": (
            None if estimate is None or placement is not None else _fitting_ctx_size(spec, estimate)
        ),
    }


def _fitting_ctx_size(spec: ServerSpec, estimate: Estimate) -> int | None:
    """llama-server reduces the context only where neither its size is set nor `--fit off`."""
    pairs = pairwise(spec.extra_args)
    is_off = any(name in ("-fit", "--fit") and value == "off" for name, value in pairs)
    return None if is_off else estimate.fitting_ctx_size


def _devices(estimate: Estimate, room: Room, capacity: Capacity) -> list[schemas.DeviceMemory]:
    return [
        {
            **_need(device.name, device.need),
            "description": device.description,
            "freeBytes": free_on(device.name, room.gpus),
            "roomBytes": None if (left := capacity.named(device.name)) is None else left.room,
        }
        for device in estimate.devices
    ]


def _host(estimate: Estimate, room: Room) -> schemas.HostMemory:
    return {
        "totalBytes": estimate.host_total.total,
        "availableBytes": room.host,
        "limitBytes": room.limit,
        "buffers": [_need(one.name, one.need) for one in estimate.host],
    }


def _need(name: str, need: Need) -> schemas.MemoryNeed:
    return {
        "name": name,
        "modelBytes": need.model,
        "contextBytes": need.context,
        "computeBytes": need.compute,
        "totalBytes": need.total,
    }

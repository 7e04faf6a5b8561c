"""Converts predictions of memory to the answers of the API. Pure."""

from datetime import UTC, datetime
from itertools import pairwise

from magid.api.schemas import gpus as schemas
from magid.api.views import when
from magid.control.prediction_cache import Prediction
from magid.gpus.fitting import Fits, Room, Verdict, free_on, judge
from magid.gpus.memory_table import Estimate, Need
from magid.llama.spec import ServerSpec


def model_memory(
    spec: ServerSpec, prediction: Prediction, room: Room, *, runs: bool
) -> schemas.ModelMemory:
    """`runs`: a server of the model runs with the very settings of this spec."""
    estimate = prediction.estimate
    verdict = _running(spec, estimate) if runs and estimate else _verdict(prediction, room)
    predicted = estimate is not None
    return {
        "modelId": spec.model_id,
        "ctxSize": spec.ctx_size,
        "parallel": spec.parallel,
        "fits": verdict.fits.value,
        "why": verdict.why,
        "source": "predicted" if predicted else None,
        "predictedAt": when(datetime.fromtimestamp(prediction.at, UTC)) if predicted else None,
        "devices": [] if estimate is None else _devices(estimate, room),
        "host": None if estimate is None else _host(estimate, room),
        "fittingCtxSize": None if estimate is None else _fitting_ctx_size(spec, estimate),
    }


def _verdict(prediction: Prediction, room: Room) -> Verdict:
    if prediction.estimate is None:
        return Verdict(Fits.UNKNOWN, prediction.problem)
    return judge(prediction.estimate, room)


def _running(spec: ServerSpec, estimate: Estimate) -> Verdict:
    """It has what it needs, but llama-server may have chosen where, and says so only in its log."""
    why = "a server of it runs with these settings"
    if estimate.devices and spec.n_gpu_layers is None:
        why += "; without nGpuLayers part of it may be on the processor"
    return Verdict(Fits.YES, why)


def _fitting_ctx_size(spec: ServerSpec, estimate: Estimate) -> int | None:
    """llama-server reduces the context only where neither its size is set nor `--fit off`."""
    pairs = pairwise(spec.extra_args)
    is_off = any(name in ("-fit", "--fit") and value == "off" for name, value in pairs)
    return None if is_off else estimate.fitting_ctx_size


def _devices(estimate: Estimate, room: Room) -> list[schemas.DeviceMemory]:
    return [
        {
            **_need(device.name, device.need),
            "description": device.description,
            "freeBytes": free_on(device.name, room.gpus),
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

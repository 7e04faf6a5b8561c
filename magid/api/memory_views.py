"""Converts predictions of memory to the answers of the API. Pure."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise

from msgspec.structs import replace

from magid.api.schemas import gpus as schemas
from magid.api.views import when
from magid.control.prediction_cache import Prediction
from magid.gpus.capacity import Capacity
from magid.gpus.fitting import Fits, Room, Verdict, free_on, judge
from magid.gpus.memory_table import Estimate, Need
from magid.gpus.placing import NoDevice, NoRoom, Question
from magid.llama.placement import Placement
from magid.llama.spec import ServerSpec
from magid.servers.backend import ObservedServer
from magid.wording.sizes import size


def model_memory(
    spec: ServerSpec,
    prediction: Prediction,
    room: Room,
    capacity: Capacity,
    verdict: Verdict,
    placement: Placement | None,
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
        "source": "predicted" if predicted else None,
        "predictedAt": when(datetime.fromtimestamp(prediction.at, UTC)) if predicted else None,
        "devices": [] if estimate is None else _devices(estimate, room, capacity),
        "host": None if estimate is None else _host(estimate, room),
        "fittingCtxSize": (
            None if estimate is None or placement is not None else _fitting_ctx_size(spec, estimate)
        ),
    }


def verdict_of(prediction: Prediction, room: Room) -> Verdict:
    """Returns whether it fits where llama-server chooses."""
    if prediction.estimate is None:
        return Verdict(Fits.UNKNOWN, prediction.problem)
    return judge(prediction.estimate, room)


def verdict_running(server: ObservedServer, estimate: Estimate) -> Verdict:
    """Returns the verdict on a server that runs, perhaps in part on the processor."""
    why = "a server of it runs with these settings"
    if server.placement is not None:
        return Verdict(_extent(server.placement), f"{why} on {_where(server.placement)}")
    if estimate.devices and dict(server.values).get("n_gpu_layers") is None:
        why += "; without nGpuLayers part of it may be on the processor"
    return Verdict(Fits.YES, why)


def verdict_placed(answer: Placement | NoRoom | NoDevice) -> Verdict:
    """Returns whether it would start now, and where."""
    match answer:
        case NoRoom(reason):
            return Verdict(Fits.NO, f"it {reason}")
        case NoDevice(missing):
            return Verdict(Fits.NO, f"this machine has no {', '.join(missing)}")
        case placement:
            needs = ", ".join(f"{one.name}: {size(one.need)} needed" for one in placement.devices)
            why = f"it would start on {_where(placement)}"
            return Verdict(_extent(placement), f"{why}; {needs}" if needs else why)


def _extent(placement: Placement) -> Fits:
    return Fits.PART if placement.extent == "part" else Fits.YES


def _where(placement: Placement) -> str:
    names = ", ".join(one.name for one in placement.devices) or "the processor"
    return f"{names} and the processor" if placement.extent == "part" else names


def deciding(
    answer: Placement | NoRoom | NoDevice, known: Mapping[Question, Prediction]
) -> Prediction:
    """Returns the prediction that the decision rests on, with the names of the devices chosen."""
    if isinstance(answer, Placement):
        names = tuple(one.name for one in answer.devices)
        fitting = (
            made
            for question, made in known.items()
            if (len(question.devices), question.ctx) == (len(names), answer.ctx_size)
            and question.shares == answer.shares
        )
        found = next(fitting, None) or next(iter(known.values()))
        return _renamed(found, names)
    least = min(known.values(), key=_total, default=None)
    return least or Prediction(0.0, problem="nothing was predicted")


def _total(made: Prediction) -> int:
    estimate = made.estimate
    return 0 if estimate is None else sum(one.need.total for one in estimate.devices)


def _renamed(made: Prediction, names: Sequence[str]) -> Prediction:
    """One prediction holds for all devices of a kind: it may name another one."""
    estimate = made.estimate
    if estimate is None or len(estimate.devices) != len(names):
        return made
    devices = tuple(
        replace(one, name=name) for one, name in zip(estimate.devices, names, strict=True)
    )
    return replace(made, estimate=replace(estimate, devices=devices))


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

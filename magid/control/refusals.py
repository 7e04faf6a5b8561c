"""Why a server has no place, as the errors that clients get. Pure."""

import re
from typing import Final

from magid.control.devices import DeviceList
from magid.control.wishes import by_id, has_ids
from magid.errors import DeviceMissing, DoesNotFit, DraftMissing, MagidError
from magid.gpus.capacity import DeviceRoom
from magid.gpus.placing import NoDevice, NoRoom
from magid.llama.placement import Placement
from magid.llama.spec import ServerSpec
from magid.wording.sizes import size

_WAYS: Final = (
    "stop another model, choose a smaller context (ctxSize), or allow it a part of the processor "
    "(offload)"
)
_REMOTE: Final = re.compile(r"[0-9.]+:[0-9]+(?:-[0-9]+of[0-9]+)?")  # see `placement.remote_id`
_WAYS_ON_HOST: Final = "stop another model, or choose a smaller context (ctxSize)"


def refusal(spec: ServerSpec, why: NoRoom | NoDevice, listed: DeviceList) -> MagidError:
    """Returns the error of a server that has no place."""
    if isinstance(why, NoDevice):
        return _missing(spec, why, listed)
    return DoesNotFit(
        f"cannot start {spec.model_id!r}: it {why.reason}; {_WAYS if why.rooms else _WAYS_ON_HOST}",
        modelId=spec.model_id,
        needBytes=why.need,
        devices=[_figures(room) for room in why.rooms],
    )


def _figures(room: DeviceRoom) -> dict[str, object]:
    """Returns what the error says of one device, for programs."""
    device = room.device
    return {
        "name": room.name,
        "totalBytes": device.total,
        "freeBytes": device.free,
        "roomBytes": room.room,
        "servers": [{"modelId": model, "needBytes": need} for model, need in room.holders],
    }


def _missing(spec: ServerSpec, why: NoDevice, listed: DeviceList) -> DeviceMissing:
    there = ", ".join(gpu.device.name for gpu in listed.gpus) or "no GPU"
    return DeviceMissing(
        f"cannot start {spec.model_id!r}: its setting device names {', '.join(why.missing)}, and "
        f"this machine has {there}; change the setting, or look for the GPU with "
        "`magictl gpus --refresh`",
        modelId=spec.model_id,
    )


def not_allocated(spec: ServerSpec, placement: Placement) -> DoesNotFit:
    """Returns the error of a server that had room by what the driver says, and yet did not."""
    where = " and ".join(f"{size(one.need)} on {one.name}" for one in placement.devices)
    return DoesNotFit(
        f"cannot start {spec.model_id!r}: llama-server could not allocate its memory, which was "
        f"predicted to be {where}, although the driver says that so much is free; another program "
        "may have taken it, so try again, or raise gpu_reserve in magid.yaml",
        modelId=spec.model_id,
        needBytes=sum(one.need for one in placement.devices),
    )


def unplaced(spec: ServerSpec, listed: DeviceList, why: str) -> Placement | None:
    """Returns what the start of a server gets that llama-server places: the GPUs of `device`.

    None: nothing is to be said, because `device` has names only, which llama-server knows. `why`
    is the reason for which it places the server itself. Raises DeviceMissing for an id that names
    no GPU, or several.
    """
    ids, devices = has_ids(spec, listed.gpus), listed.gpus
    if unlisted := [one for one in ids if not devices and _REMOTE.fullmatch(one)]:
        raise DeviceMissing(
            f"cannot start {spec.model_id!r}: its setting device names {', '.join(unlisted)}, "
            f"which is not listed ({listed.problem or 'no GPU is'}); change the setting, or look "
            "for the GPU with `magictl gpus --refresh`",
            modelId=spec.model_id,
        )
    if not ids or not devices:
        return None
    if placement := by_id(spec, devices):
        return placement
    there = ", ".join(f"{gpu.device.name} ({gpu.device.id})" for gpu in devices)
    raise DeviceMissing(
        f"cannot start {spec.model_id!r}: its setting device has {', '.join(ids)}, which is not "
        f"the id of exactly one GPU, and llama-server has to place it itself "
        f"({why or 'no prediction'}); this machine has {there}; set device to names of them",
        modelId=spec.model_id,
    )


def refuse_undrafted(spec: ServerSpec, why: str) -> None:
    """Raises DraftMissing if there is a reason why the draft that was chosen is not there."""
    if why:
        raise DraftMissing(
            f"cannot start {spec.model_id!r}: {why}, which its setting draft names; put it back, "
            "or set draft=auto",
            modelId=spec.model_id,
        )

"""What is to be placed: a server's settings and its file, in the words of the rules. Pure."""

import dataclasses
from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from magid.catalog.effective import Model
from magid.control.prediction_cache import Prediction
from magid.control.undrafted import missing_draft
from magid.discovery.model_shape import ModelShape
from magid.gpus.capacity import Capacity
from magid.gpus.device import Gpu
from magid.gpus.header_estimate import HeaderEstimate, at_most, estimate_by_header
from magid.gpus.placing import ALL_LAYERS, SMALLEST_CTX, Question, Wish, steps_up_to
from magid.llama.arguments import options_in
from magid.llama.placement import PlacedDevice, Placement
from magid.llama.server_shape import server_shape
from magid.llama.spec import ServerSpec

_OWN: Final = frozenset(
    {"--device", "-dev", "--split-mode", "-sm", "--tensor-split", "-ts", "--main-gpu", "-mg"}
    | {"--override-tensor", "-ot", "--cpu-moe", "-cmoe", "--n-cpu-moe", "-ncmoe", "--fit", "-fit"}
    | {"--fit-target", "-fitt", "--fit-ctx", "-fitc", "--n-gpu-layers", "--gpu-layers", "-ngl"}
)
"""Options of llama-server with which a user chooses devices or layers."""


class FileFacts(Struct, frozen=True):
    """What a decision needs to know of a model's file."""

    trained_ctx: int | None = None
    size_bytes: int = 0
    shape: ModelShape = ModelShape()
    missing_draft: str = ""  # why the draft that was chosen is not there; it is not started then


def facts_of(model: Model | None) -> FileFacts:
    """Returns the facts of a model; None: its file is gone."""
    if model is None:
        return FileFacts()
    found = model.found
    return FileFacts(found.context_length, found.size_bytes, found.shape, missing_draft(model))


def wish_of(spec: ServerSpec, facts: FileFacts, ctx_default_max: int) -> Wish:
    """Returns what the rules have to know of a server."""
    steps: tuple[int, ...] = ()
    if spec.ctx_size is None:
        steps = steps_up_to(ctx_default_max, facts.trained_ctx, spec.parallel or 1)
    device = None if spec.device is None else tuple(spec.device.split(","))
    return Wish(
        spec.model_id,
        device=() if device == ("none",) else device,
        layers=_layers(spec),
        steps=steps,
        offload=_offload(spec),
        is_own=not _OWN.isdisjoint(options_in(spec.extra_args)),
    )


def _offload(spec: ServerSpec) -> Literal["all", "part", "cpu"]:
    """Returns what may be on the processor: layers that the user has set are not made fewer."""
    layers = spec.n_gpu_layers
    return "all" if spec.offload == "part" and layers is not None and layers >= 0 else spec.offload


def header_estimate(spec: ServerSpec, facts: FileFacts) -> HeaderEstimate | None:
    """Returns the estimate of a server whose context llama-server chooses, or the user.

    On the processor all weights may be repacked, and such a copy is no part of a file. None of one
    that loads further files, whose headers say nothing of the memory for images.
    """
    if spec.mmproj_path or spec.draft_type or spec.lora_paths:
        return None
    ctx = spec.ctx_size or facts.trained_ctx or SMALLEST_CTX
    return estimate_by_header(facts.shape, server_shape(spec, ctx))


def surely(spec: ServerSpec, facts: FileFacts, capacity: Capacity) -> Placement | None:
    """Returns the processor where even the worst that the header allows has room."""
    found = header_estimate(spec, facts)
    if capacity.devices or (spec.device or "none") != "none" or found is None:
        return None
    need = at_most(found.on_processor)
    if need > capacity.host:
        return None
    return Placement((), need, "none", host_later=at_most(found.compute))


def renamed(made: Prediction, placement: Placement | None) -> Prediction:
    """Returns the prediction with the names that the devices have in the list.

    llama-server numbers RPC servers by what it is told of, and devices that are chosen by UUID.
    """
    if made.estimate is None or placement is None:
        return made
    names = dict(zip(placement.names_there, (d.name for d in placement.devices), strict=True))
    devices = tuple(
        replace(device, name=names.get(device.name, device.name))
        for device in made.estimate.devices
    )
    return replace(made, estimate=replace(made.estimate, devices=devices))


def _layers(spec: ServerSpec) -> int | None:
    layers = spec.n_gpu_layers
    return None if layers is None or not 0 <= layers < ALL_LAYERS else layers


def as_placement(spec: ServerSpec, question: Question, gpus: Sequence[Gpu]) -> Placement | None:
    """Returns the placement with which llama-server predicts what the question is about.

    `gpus` are those that this machine has.
    """
    if question.is_own:
        return by_id(spec, gpus)
    ids = {name: gpu.device.id for gpu in gpus for name in gpu.names}
    devices = tuple(PlacedDevice(name, ids.get(name, name), 0) for name in question.devices)
    layers = None
    if _layers(spec) is None:
        layers = ALL_LAYERS if devices else 0
    return Placement(
        devices, 0, "all" if devices else "none", pins_devices=True, n_gpu_layers=layers,
        ctx_size=question.ctx, shares=question.shares,
    )  # fmt: skip


def by_id(spec: ServerSpec, gpus: Sequence[Gpu]) -> Placement | None:
    """Returns the devices of a server that llama-server places, if `device` has ids of GPUs.

    llama-server takes names only. None where an id names no GPU, or several: parts of one GPU have
    one PCI address.
    """
    wanted = [] if spec.device is None else spec.device.split(",")
    found = [_named(one, gpus) for one in wanted]
    if not has_ids(spec, gpus) or None in found:
        return None
    devices = tuple(PlacedDevice(name, gpu.device.id, 0) for name, gpu in filter(None, found))
    return Placement(devices, 0, "own", source="unknown", pins_devices=True)


def with_devices(placement: Placement, meant: Placement | None) -> Placement:
    """Returns a placement by the user's own options with the devices of `by_id`, if there are."""
    if meant is None:
        return placement
    needs = {device.name: device.need for device in placement.devices}
    devices = tuple(dataclasses.replace(one, need=needs.get(one.name, 0)) for one in meant.devices)
    return dataclasses.replace(placement, devices=devices, pins_devices=True)


def has_ids(spec: ServerSpec, gpus: Sequence[Gpu]) -> list[str]:
    """Returns what of the setting `device` is no name of these GPUs."""
    names = {name.lower() for gpu in gpus for name in gpu.names}
    wanted = [] if spec.device is None else spec.device.split(",")
    return [one for one in wanted if one.lower() not in names and one != "none"]


def _named(wanted: str, gpus: Sequence[Gpu]) -> tuple[str, Gpu] | None:
    """Returns the one GPU with this name or id, and its name there."""
    word = wanted.lower()
    for gpu in gpus:
        if name := next((name for name in gpu.names if name.lower() == word), None):
            return name, gpu
    found = [gpu for gpu in gpus if word in (gpu.device.id.lower(), gpu.device.address)]
    return (found[0].device.name, found[0]) if len(found) == 1 else None

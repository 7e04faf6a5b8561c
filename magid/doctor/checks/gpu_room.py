"""GPUs: they are those that the settings name, and have the memory that models ask of them."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from magid.doctor.facts import (
    DaemonFacts,
    Facts,
    Finding,
    FindingSeverity,
    ModelFacts,
    NotCollected,
    Program,
    ServerFacts,
    answering,
    configured,
)
from magid.gpus.device import Gpu

_NOT_PREDICTED: Final = "cannot predict the memory"
_WORTH_SAYING: Final = 1 << 30
_GIB: Final = 2**30


def room(facts: Facts) -> Iterator[Finding]:
    """The settings ask of the GPUs what they have. Nothing to find where there are none."""
    program = None if isinstance(facts.trial, NotCollected) else facts.trial.program
    daemon, reserve = answering(facts), configured(facts).gpu_reserve
    if program is None or not program.version or program.unlisted:
        return
    yield from _missing(daemon, program.gpus)
    if not program.gpus:
        return
    yield from _unknown(program, facts.settings.path.as_posix())
    yield from _reserved(program.gpus, reserve, facts.settings.path.as_posix())
    most = sum(max(0, (gpu.device.total or 0) - reserve) for gpu in program.gpus)
    if all(gpu.device.total for gpu in program.gpus):
        yield from _never(daemon.models, most)
    yield from _held(daemon, most)
    if "--fit" in program.flags:
        yield from _unpredicted(daemon.models)
    yield from _elsewhere(daemon.servers, daemon.models)


def _missing(daemon: DaemonFacts, gpus: Sequence[Gpu]) -> Iterator[Finding]:
    there = {name.lower() for gpu in gpus for name in gpu.all_names}
    said = ", ".join(gpu.device.name for gpu in gpus) or "no GPU"
    for model in daemon.models:
        names = [name for name in model.device.split(",") if name not in ("", "none")]
        gone = [name for name in names if name.lower() not in there]
        if gone:
            yield Finding(
                "device-missing",
                f"{model.model_id} is to run on {', '.join(gone)}, and this machine has {said}",
                "it is not started (DeviceMissing); the numbers of GPUs change with their number",
                do="if the GPU should be there: look at its power and seat, and at `journalctl -k`,"
                " then `magictl gpus --refresh`; else let magid choose:",
                run=(f"magictl set {model.model_id} device=", "magictl apply"),
            )


def _unknown(program: Program, settings: str) -> Iterator[Finding]:
    """Names what keeps magid from placing models: it leaves them to llama-server then."""
    if "--fit" not in program.flags:
        yield Finding(
            "memory-not-predicted",
            f"{program.path} cannot predict its memory: it has no option --fit",
            "models run where llama-server puts them, perhaps on the processor",
            FindingSeverity.WARNING,
            do="install a llama-server of 2026 or later",
        )
    names = [gpu.device.name for gpu in program.gpus if not gpu.device.total]
    if names:
        yield Finding(
            "gpu-memory-unknown",
            f"the driver does not say how much memory of {', '.join(names)} is free",
            "magid does not count on it, and leaves models to llama-server that fit nowhere else",
            FindingSeverity.WARNING,
            do=f"use another back end or driver of it, if there is one; or put models onto it by "
            f"hand: `magictl set MODEL device={names[0]} nGpuLayers=99`, or server_defaults in "
            f"{settings}",
        )


def _reserved(gpus: Sequence[Gpu], reserve: int, settings: str) -> Iterator[Finding]:
    small = [g.device for g in gpus if g.device.total is not None and g.device.total <= reserve]
    if small:
        sizes = ", ".join(f"{one.name} has {_gib(one.total or 0)}" for one in small)
        yield Finding(
            "gpu-reserve-too-large",
            f"gpu_reserve keeps {_gib(reserve)} of each GPU free, and {sizes}",
            "no model is ever put there",
            do=f"lower gpu_reserve in {settings}, then `systemctl restart magid`",
        )


def _never(models: Sequence[ModelFacts], most: int) -> Iterator[Finding]:
    for model in models:
        if model.offload == "all" and model.on_gpus > most:
            yield Finding(
                "model-never-fits",
                f"{model.model_id} needs {_gib(model.on_gpus)} on GPUs, and all of them together "
                f"have {_gib(most)} for models",
                "it is never started, whatever else stops",
                do="use a smaller quantization or context, or allow it a part of the processor:",
                run=(f"magictl set {model.model_id} offload=part", "magictl apply"),
            )


def _held(daemon: DaemonFacts, most: int) -> Iterator[Finding]:
    """Finds programs besides magid's that hold what a model lacks."""
    held = {name: size for name, size in daemon.others.items() if size >= _WORTH_SAYING}
    lacking = [m for m in daemon.models if m.fits == "no" and 0 < m.on_gpus <= most]
    if held and lacking:
        said = ", ".join(f"{_gib(size)} of {name}" for name, size in held.items())
        yield Finding(
            "gpus-held-by-others",
            f"other programs hold {said}, and {lacking[0].model_id} has no room",
            f"it needs {_gib(lacking[0].on_gpus)}",
            FindingSeverity.WARNING,
            do="`sudo fuser -v /dev/nvidia* /dev/dri/render*` names them; end them, then "
            f"`magictl gpus --refresh` and `magictl start {lacking[0].model_id}`",
        )


def _unpredicted(models: Sequence[ModelFacts]) -> Iterator[Finding]:
    for model in models:
        _, found, why = model.why.partition(_NOT_PREDICTED)
        if found:
            yield Finding(
                "prediction-failed",
                f"{model.model_id} is not placed by magid: {found}{why}",
                "llama-server chooses where it runs, perhaps on the processor",
                FindingSeverity.WARNING,
                do=f"`magictl fits {model.model_id}` tries again; a file that cannot be loaded "
                "needs another download, or a newer llama-server",
            )


def _elsewhere(servers: Sequence[ServerFacts], models: Sequence[ModelFacts]) -> Iterator[Finding]:
    """Finds servers that were placed before their setting `device` was changed."""
    chosen = {model.model_id: model.device.lower().split(",") for model in models if model.device}
    for server in servers:
        names = chosen.get(server.model_id)
        if names is None or not server.devices:
            continue
        known = {one.lower() for pair in server.devices for one in pair}
        if not known & set(names):
            where = ", ".join(name for name, _ in server.devices)
            yield Finding(
                "server-elsewhere",
                f"{server.unit} runs on {where}, and {server.model_id} is set to {','.join(names)}",
                "a server keeps its place until it is started again",
                FindingSeverity.WARNING,
                run=(f"magictl restart {shlex.quote(server.model_id)}",),
            )


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"

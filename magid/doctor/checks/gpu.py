"""GPUs: there, usable by a server in its sandbox, and used."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from magid.doctor.facts import (
    Facts,
    Finding,
    FindingSeverity,
    Gpus,
    NotCollected,
    Program,
    answering,
    configured,
    known,
)
from magid.host.display_controllers import AMD, NAMES, NVIDIA
from magid.launcher.sandbox import DEVICES
from magid.llama import gpu_packages

_UVM: Final = "/dev/nvidia-uvm"


def nodes(facts: Facts) -> Iterator[Finding]:
    """Each GPU has its device nodes, and a server in its sandbox can open them."""
    gpus = known(facts.gpus)
    yield from _missing(gpus)
    groups = frozenset() if isinstance(facts.accounts, NotCollected) else facts.accounts.groups
    tried = {} if isinstance(facts.trial, NotCollected) else facts.trial.nodes or {}
    for node in gpus.nodes:
        why = tried.get(node.path, "")
        others = bool(node.mode & 0o006 == 0o006)
        by_group = node.group in ("render", "video") and node.mode & 0o060 == 0o060
        if why == "Operation not permitted" or (
            why == "Permission denied" and (others or by_group)
        ):
            yield Finding(
                "gpu-kept-out",
                f"the sandbox of servers keeps {node.path} from them: {why}",
                f"its driver is not registered as one of {', '.join(DEVICES)} in /proc/devices",
                run=("modprobe nvidia", "systemctl restart magi-gpu.service", "magictl apply"),
            )
        elif not others and not (by_group and node.group in groups):
            yield Finding(
                "gpu-node-closed",
                f"a server cannot open {node.path}: it is {node.user}:{node.group} with mode "
                f"{node.mode:04o}",
                "servers are in the groups render and video, and no others",
                run=(_opened(node.path, groups), "magictl apply"),
            )


def _opened(path: str, groups: frozenset[str]) -> str:
    """NVIDIA's nodes are for all; those of the kernel's own drivers are the group render's.

    The package udev makes that group: a system without it has the group video alone.
    """
    name = shlex.quote(path)
    if path.startswith("/dev/nvidia"):
        return f"chmod 0666 {name}"
    group = "render" if "render" in groups else "video"
    return f"chgrp {group} {name} && chmod 0660 {name}"


def _missing(gpus: Gpus) -> Iterator[Finding]:
    there = {node.path for node in gpus.nodes}
    if NVIDIA in gpus.vendors and not gpus.driver:
        yield Finding(
            "nvidia-driver-missing",
            "there is an NVIDIA GPU, and its driver is not loaded",
            "models run on the processor, or on the other GPUs",
            do="install the driver (Debian: nvidia-driver, of non-free), then:",
            run=("modprobe nvidia", "systemctl restart magi-gpu.service"),
        )
    elif gpus.driver and _UVM not in there:
        yield Finding(
            "nvidia-uvm-missing",
            f"there is no {_UVM}",
            "without it CUDA finds no GPU, and models run on the processor without a word; a "
            "server may not make it itself",
            run=("modprobe nvidia_uvm", "nvidia-modprobe -c 0 -u", "magictl apply"),
        )
    if AMD in gpus.vendors and "kfd" in gpus.majors and "/dev/kfd" not in there:
        yield Finding(
            "kfd-missing",
            "there is no /dev/kfd",
            "ROCm needs it",
            run=("udevadm trigger /dev/kfd",),
        )


def driver(facts: Facts) -> Iterator[Finding]:
    """The NVIDIA driver and its library are of one version."""
    gpus = known(facts.gpus)
    if gpus.driver and gpus.libraries and gpus.driver not in gpus.libraries:
        yield Finding(
            "nvidia-driver-mismatch",
            f"the NVIDIA driver that is loaded is {gpus.driver}, and its library is "
            f"{', '.join(gpus.libraries)}",
            "it was upgraded under the running kernel: CUDA says 'driver/library version mismatch'",
            do="reboot; or, when nothing uses the GPU:",
            run=("systemctl stop magi-models.target", "rmmod nvidia_uvm nvidia_drm nvidia_modeset "
                 "nvidia", "modprobe nvidia_uvm", "systemctl restart magi-gpu.service",
                 "magictl apply"),
        )  # fmt: skip


def _listed(program: Program | None, settings: Path) -> Iterator[Finding]:
    """llama-server can list its devices in the sandbox, and lists each GPU once."""
    if program is None or not program.version:
        return
    if program.unlisted and "--list-devices" in program.flags:
        yield Finding(
            "gpus-not-listed",
            f"{program.path} cannot list its devices in the sandbox: {program.unlisted}",
            "magid does not know the GPUs, and models may run on the processor",
            FindingSeverity.WARNING,
            do="a driver or a library of its back ends is broken, or hangs: see `journalctl -k`, "
            f"and run `{program.path} --list-devices`",
        )
    for gpu in program.gpus:
        if gpu.same:
            yield Finding(
                "gpu-listed-twice",
                f"llama-server lists {gpu.device.description} as {' and as '.join(gpu.names)}",
                "a model without the setting `device` may be split between a GPU and itself",
                FindingSeverity.WARNING,
                do=f"remove llama-server's back end {gpu.same[-1].backend}, or set "
                f"server_defaults.device to {gpu.device.name} in {settings}",
            )


def use(facts: Facts) -> Iterator[Finding]:
    """Models that should run on a GPU do: llama-server goes on without one, and says it is well."""
    program = None if isinstance(facts.trial, NotCollected) else facts.trial.program
    yield from _listed(program, facts.settings.path)
    if not _wants_gpu(facts):
        answering(facts)  # a model's settings may ask for one
        return
    if program and program.version and not program.gpus and not program.unlisted:
        do, run = _where_from(facts, program)
        yield Finding(
            "no-gpu-found", f"{program.path} finds no GPU", _why_none(facts), do=do, run=run
        )
        return
    said = {unit: lines[0] for unit, lines in known(facts.said).items() if lines}
    if said:
        yield Finding(
            "server-without-gpu",
            f"{', '.join(said)} {'run' if len(said) > 1 else 'runs'} on the processor",
            f"the log says: {next(iter(said.values()))}; /health still says ok",
            run=(f"systemctl restart {' '.join(said)}",),
        )
    known(facts.trial)


def _where_from(facts: Facts, program: Program) -> tuple[str, tuple[str, ...]]:
    """What to do, and the commands for it on this release of Debian or Ubuntu."""
    gpus = known(facts.gpus)
    if gpus.vendors & NAMES.keys():
        advice = gpu_packages.advice(gpus.system, gpus.vendors, str(program.path), gpus.packages)
        again = ("magictl gpus --refresh", "magictl apply") if advice.run else ()
        return f"{advice.text}:" if again else advice.text, (*advice.run, *again)
    return (
        "set n_gpu_layers to 0, or back to null, in server_defaults of "
        f"{facts.settings.path} and of the models; then `magictl apply`",
        (),
    )


def _wants_gpu(facts: Facts) -> bool:
    """Whether layers on a GPU are requested, or a GPU exists and is not declined."""
    daemon = facts.daemon
    models = () if isinstance(daemon, NotCollected) else daemon.models
    asked = [configured(facts).server_defaults.n_gpu_layers, *(m.layers for m in models)]
    if any(layers is not None and layers > 0 for layers in asked):
        return True
    there = bool(known(facts.gpus).vendors & NAMES.keys())
    return there and 0 not in asked


def _why_none(facts: Facts) -> str:
    gpus = known(facts.gpus)
    if gpus.vendors & NAMES.keys():
        return "the machine has one: its nodes are closed, or this build has no back end for it"
    return "n_gpu_layers asks for one, and this machine has none: models run on the processor"

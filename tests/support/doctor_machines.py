"""Machines for the doctor: a healthy one, and the parts of others that differ from it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magid.config.settings import Config
from magid.doctor.checks.all import results
from magid.doctor.collect import files, services
from magid.doctor.facts import (
    Accounts,
    ConditionFacts,
    DaemonFacts,
    Facts,
    Finding,
    Folder,
    Gpus,
    Listener,
    Machine,
    ModelFacts,
    ModelFile,
    NotCollected,
    Place,
    ProfileFiles,
    Program,
    RegistryFiles,
    SandboxTrial,
    ServiceUnit,
    Settings,
    Tokens,
    Volume,
)
from magid.gpus.device import gpus_of
from magid.gpus.listing import devices_in

GIB = 2**30
NOW = 1_795_000_000.0
FLAGS = frozenset(
    [
        "--model",
        "--port",
        "--api-key-file",
        "--offline",
        "--cors-origins",
        "--metrics",
        "--ctx-size",
        "--threads",
    ]
)


def unit(name: str, **changes: Any) -> ServiceUnit:
    healthy = ServiceUnit(
        name, "loaded", "active", "enabled", "success", False, f"/{name}", (), "", {}
    )
    return dataclasses.replace(healthy, **changes)


UNITS = {name: unit(name) for name in services.OURS} | {
    services.TRIAL: unit(services.TRIAL, fragment="")
}
MACHINE = Machine(
    *(257, frozenset({"+BPF_FRAMEWORK"}), True, False, NOW, True, NOW, NOW, 64 * GIB),
    *(frozenset({"cpu", "memory"}), "auto"),
)
PLACES = {
    "/etc/magi": Place("/etc/magi", "root", "root", 0o755),
    "/var/lib/magi": Place("/var/lib/magi", "magi", "magi", 0o750),
    files.LAUNCHER: Place(files.LAUNCHER, "root", "magi", 0o660),
    files.KEY_SOCKET: Place(files.KEY_SOCKET, "root", "root", 0o600),
    files.KEYS: Place(files.KEYS, "root", "magi", 0o750),
}
PROFILES, MODELS = "/etc/magi/profiles", "/var/lib/magi/models"
REGISTRY = "/var/lib/magi/model_registry.json"
PROGRAM = Program("/usr/bin/llama-server", version="9000", flags=FLAGS)
NVIDIA = Gpus(
    frozenset({"10de"}),
    frozenset({"nvidia", "nvidia-uvm"}),
    tuple(Place(p, "root", "root", 0o666) for p in ("/dev/nvidia0", "/dev/nvidia-uvm")),
    "550.54",
    ("550.54",),
)
HEALTHY = Facts(
    service=True,
    settings=Settings(Path("/etc/magi/magid.yaml"), Config()),
    machine=MACHINE,
    accounts=Accounts(
        frozenset({"magi"}), frozenset({"magi", "magi-models", "magi-view", "render"})
    ),
    units=UNITS,
    places=PLACES,
    volumes=(Volume("/var/lib/magi", 50 * GIB, 100 * GIB, 10**6, 10**7, False),),
    writing="",
    folders=(Folder("/models"),),
    unread={},
    files=(ModelFile("/models/a.gguf"),),
    trial=SandboxTrial(files={"/models/a.gguf": ""}, nodes={}, program=PROGRAM),
    listeners=(Listener("127.0.0.1", 8000, 1, "systemd", "init.scope"),),
    gpus=Gpus(frozenset(), frozenset(), (), "", ()),
    registry=RegistryFiles(REGISTRY),
    profiles=ProfileFiles(frozenset({"development"}), {}),
    tokens=Tokens(),
    daemon=DaemonFacts(profile="development"),
    launcher="",
    said={},
)


def found(**changes: Any) -> list[tuple[str, Finding]]:
    """What is found where this much is not as it should be."""
    seen = results(dataclasses.replace(HEALTHY, **changes))
    return [(result.check.name, finding) for result in seen for finding in result.findings]


def with_unit(name: str, **changes: Any) -> Mapping[str, ServiceUnit]:
    return {**UNITS, name: unit(name, **changes)}


def place(path: str, **changes: Any) -> Mapping[str, Place]:
    return {**PLACES, path: dataclasses.replace(PLACES[path], **changes)}


def machine(**changes: Any) -> Machine:
    return dataclasses.replace(MACHINE, **changes)


def volume(**changes: Any) -> tuple[Volume, ...]:
    assert not isinstance(HEALTHY.volumes, NotCollected)
    return (dataclasses.replace(HEALTHY.volumes[0], **changes),)


def gpus(**changes: Any) -> Gpus:
    return dataclasses.replace(NVIDIA, **changes)


def tried(**changes: Any) -> SandboxTrial:
    return dataclasses.replace(SandboxTrial(files={}, nodes={}, program=PROGRAM), **changes)


def with_models(*sizes: int, **changes: Any) -> DaemonFacts:
    each = [ModelFacts(f"m{n}", size, None, 8080 + n, True) for n, size in enumerate(sizes)]
    return DaemonFacts(models=tuple(dataclasses.replace(model, **changes) for model in each))


def reported(*codes: str) -> DaemonFacts:
    """A magid with these conditions."""
    remedy = ("magictl doctor", "magictl start a b")
    each = (ConditionFacts(code, "warning", "2 models are stopped", remedy) for code in codes)
    return DaemonFacts(profile="development", conditions=tuple(each))


DEVICE = "CUDA0: NVIDIA H100 (81920 MiB, 81000 MiB free)"
LISTED = f"Available devices:\n  {DEVICE}\n"
WITH_GPU = dataclasses.replace(PROGRAM, gpus=gpus_of(devices_in(LISTED) or ()))
FITTING = dataclasses.replace(WITH_GPU, flags=PROGRAM.flags | {"--fit"})
NO_MEMORY = gpus_of(devices_in(LISTED.replace("81920 MiB, 81000", "0 MiB, 0")) or ())
TWICE = gpus_of(devices_in(LISTED + f"  {DEVICE.replace('CUDA', 'Vulkan')}\n") or ())
FITS = tried(program=FITTING)
OPEN = Listener("0.0.0.0", 8000, 9, "magid", "magid.service")
ROOTED = {"magid.service": {"User": "root", "NoNewPrivileges": "yes"}}

"""systemd: what it is, and what it says of magid's units and of the models'."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from magid.doctor.collect.commands import CannotLook, output_of
from magid.doctor.facts import Unit

OURS: Final = (
    *("magid.service", "magid.socket", "magid-local.socket"),
    *("magi-launcher.service", "magi-launcher.socket", "magi-key.socket", "magi-gpu.service"),
)
TRIAL: Final = (
    "llama-server@doctor.service"  # the template: systemd would make it of a file on disk
)
_MODELS: Final = "llama-server@*.service"
# What a drop-in could take away, and where sockets listen.
SANDBOX: Final = (
    *("User", "DynamicUser", "NoNewPrivileges", "CapabilityBoundingSet", "ProtectSystem"),
    *("ProtectHome", "PrivateDevices", "DevicePolicy", "RestrictAddressFamilies", "Listen"),
)
_PROPERTIES: Final = (
    *("Id", "LoadState", "ActiveState", "UnitFileState", "Result", "NeedDaemonReload"),
    *("FragmentPath", "DropInPaths", "InvocationID", *SANDBOX),
)


def units() -> dict[str, Unit]:
    """Those of magid's, loaded or not, and every model unit that is loaded. Raises CannotLook."""
    chosen = ",".join(_PROPERTIES)
    names = (*OURS, TRIAL)
    text = output_of(["systemctl", "show", f"--property={chosen}", "--", *names, _MODELS])
    found = {unit.name: unit for unit in map(_unit, blocks(text))}
    if not found:
        raise CannotLook("systemd does not answer")
    return found


def blocks(text: str) -> Iterator[dict[str, str]]:
    """What `systemctl show` prints: a block for each unit, empty lines between. Pure.

    A property that is there several times (Listen=) is joined by spaces.
    """
    for block in text.strip().split("\n\n"):
        values: dict[str, str] = {}
        for line in block.splitlines():
            name, _, value = line.partition("=")
            values[name] = f"{values[name]} {value}" if name in values else value
        if values.get("Id"):
            yield values


def _unit(shown: Mapping[str, str]) -> Unit:
    return Unit(
        name=shown["Id"],
        load=shown.get("LoadState", ""),
        active=shown.get("ActiveState", ""),
        enabled=shown.get("UnitFileState", ""),
        result=shown.get("Result", ""),
        stale=shown.get("NeedDaemonReload") == "yes",
        fragment=shown.get("FragmentPath", ""),
        drop_ins=tuple(shown.get("DropInPaths", "").split()),
        invocation=shown.get("InvocationID", ""),
        shown={name: shown[name] for name in SANDBOX if name in shown},
    )


def version_and_features() -> tuple[int, frozenset[str]]:
    """Of the systemd that is installed; (0, nothing) where there is none. Never raises."""
    try:
        text = output_of(["systemctl", "--version"])
    except CannotLook:
        return 0, frozenset()
    number = re.match(r"systemd (\d+)", text)
    return (int(number[1]) if number else 0), frozenset(re.findall(r"[+-][A-Z0-9_]+", text))


GPU_WORDS: Final = re.compile(
    r"no usable GPU found|ggml_cuda_init: failed|no CUDA-capable device|cudaGetDeviceCount"
    r"|ROCm error|vk::createInstance|offloaded 0/[1-9]\d* layers",
    re.IGNORECASE,
)
"""What llama.cpp (0.7.0, and ggml's back ends) logs when it goes on without a GPU."""


def said_of_gpus(names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Unit -> the lines of its present run that speak of a missing GPU. Raises CannotLook.

    `names` is unit -> invocation id. The first lines tell: the last may be years of requests.
    """
    said = {}
    for unit, invocation in names.items():
        argv = [
            "journalctl",
            "--quiet",
            "--no-pager",
            "--output=cat",
            f"--grep={GPU_WORDS.pattern}",
        ]
        text = output_of([*argv, "--lines=5", f"_SYSTEMD_INVOCATION_ID={invocation}"])
        said[unit] = tuple(line for line in text.splitlines() if GPU_WORDS.search(line))
    return said

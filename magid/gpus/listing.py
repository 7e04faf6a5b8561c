"""Reads the output of `llama-server -lv 5 --list-devices`. Pure.

The list itself is on standard output, and what the back ends say of their devices on standard
error, so the lines of the two come in any order.
"""

import re
from collections import Counter
from collections.abc import Container
from typing import Final

from msgspec.structs import replace

from magid.gpus.device import REMOTE, Device
from magid.llama.device_list import HEAD, SILENT
from magid.llama.placement import remote_id

_MIB: Final = 1 << 20
_MOST_MIB: Final = 1 << 40
_DEVICE: Final = re.compile(
    r"\s+(?P<name>[A-Za-z]{1,32}[0-9]{0,5}): (?P<description>.{0,300}) "
    r"\((?P<total>\S{1,20}) MiB, (?P<free>\S{1,20}) MiB free\)\s*"
)
# ggml lists what computes on the processor too.
_NO_GPUS: Final = frozenset({"CPU", "BLAS", "AMX", "zDNN"})
_FOUND: Final = re.compile(r"ggml_cuda_init: found [0-9]+ (?P<backend>[A-Za-z]{1,32}) devices")
_NUMBERED: Final = re.compile(r"(?:^|\s)Device (?P<number>[0-9]{1,5}): (?P<rest>.+)")
_VULKAN: Final = re.compile(r"ggml_vulkan: (?P<number>[0-9]{1,5}) = (?P<rest>.+)")
_UMA: Final = re.compile(r"\| uma: (?P<uma>[01])\b")
_ADDRESS: Final = re.compile(
    r"\b(?P<domain>[0-9A-Fa-f]{4,8}):(?P<rest>[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])\b"
)
_UUID: Final = re.compile(r"\b(?:GPU|MIG)-[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b")


def devices_in(output: str, remote: Container[str] = ()) -> tuple[Device, ...] | None:
    """Returns the devices, in llama-server's order; None if there is no list in the output.

    Those of the RPC servers `remote` are told by their addresses: names follow the order in which
    llama-server is told of the servers.
    """
    before, head, after = output.partition(HEAD)
    if not head:
        return None
    listed: dict[str, Device] = {}
    for line in after.splitlines():
        device = _device(line)
        if device is not None and device.backend not in _NO_GPUS:
            listed.setdefault(device.name, device)
    said = _said([*before.splitlines(), *after.splitlines()])
    found = [_described(device, said.get(device.name, "")) for device in listed.values()]
    servers = Counter(d.description for d in found if _is_of(remote, d))
    seen: Counter[str] = Counter()
    for place, device in enumerate(found):
        if _is_of(remote, device):
            server = device.description
            own = remote_id(server, seen[server], servers[server])
            found[place] = replace(device, remote_id=own)
            seen[server] += 1
    return tuple(found)


def _is_of(remote: Container[str], device: Device) -> bool:
    return device.backend == REMOTE and device.description in remote


def silent_in(output: str) -> tuple[str, ...]:
    """Returns what was said of RPC servers that do not answer."""
    return tuple(line for line in output.splitlines() if line.startswith(SILENT))


def last_line(output: str) -> str:
    """Returns the last line that says something, which names the reason of most failures."""
    lines = output.strip().splitlines()
    return lines[-1].strip()[:300] if lines else "it printed nothing"


def _device(line: str) -> Device | None:
    match = _DEVICE.fullmatch(line)
    if match is None:
        return None
    total, free = _memory(match["total"], match["free"])
    name = match["name"]
    return Device(name, name.rstrip("0123456789"), match["description"].strip(), total, free)


def _memory(total_text: str, free_text: str) -> tuple[int | None, int | None]:
    """Returns total and free. Drivers have shown 0 of 0 for unknown, and more free than total."""
    total, free = _mib(total_text), _mib(free_text)
    if not total:
        return None, None
    return total, None if free is None else min(free, total)


def _mib(text: str) -> int | None:
    if not (text.isascii() and text.isdecimal()) or int(text) > _MOST_MIB:
        return None
    return int(text) * _MIB


def _said(lines: list[str]) -> dict[str, str]:
    """Returns a device's name -> what its back end says of it."""
    said: dict[str, str] = {}
    backend = ""
    for line in lines:
        if found := _FOUND.search(line):
            backend = found["backend"]
        elif vulkan := _VULKAN.search(line):
            said[f"Vulkan{int(vulkan['number'])}"] = vulkan["rest"]
        elif backend and (numbered := _NUMBERED.search(line)):
            said[f"{backend}{int(numbered['number'])}"] = numbered["rest"]
    return said


def _described(device: Device, said: str) -> Device:
    uma, uuid, address = _UMA.search(said), _UUID.search(said), _ADDRESS.search(said)
    return replace(
        device,
        integrated=None if uma is None else uma["uma"] == "1",
        uuid=None if uuid is None else uuid[0],
        address=None if address is None else _canonical(address),
    )


def _canonical(address: "re.Match[str]") -> str:
    """Returns the address as sysfs writes it: NVIDIA's tools write the domain with 8 digits."""
    return f"{int(address['domain'], 16):04x}:{address['rest'].lower()}"

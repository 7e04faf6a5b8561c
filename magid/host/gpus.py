"""Memory of GPUs, where the kernel shows it to everybody.

That is amdgpu, in sysfs. NVIDIA's driver tells it only to who may open its devices, which magid may
not: whoever parses files from the network gets no GPU. dcgm-exporter is for those.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CARDS = Path("/sys/class/drm")
_CARD = re.compile(r"card[0-9]+")  # and not card0-HDMI-A-1, which is a plug of it


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Of one GPU, named by its address on the bus; bytes."""

    address: str
    total: int
    used: int


def memory(cards: Path = CARDS) -> list[GpuMemory]:
    """In order of addresses; empty where no driver tells. Reads a few files of sysfs.

    Source: Linux, Documentation/gpu/amdgpu/driver-misc.rst, mem_info_vram_total and _used.
    """
    return sorted(_found(cards), key=lambda gpu: gpu.address)


def _found(cards: Path) -> Iterator[GpuMemory]:
    try:
        names = [card for card in cards.iterdir() if _CARD.fullmatch(card.name)]
    except OSError:
        return
    for card in names:
        device = card / "device"
        try:
            total = int((device / "mem_info_vram_total").read_text())
            used = int((device / "mem_info_vram_used").read_text())
            yield GpuMemory(device.resolve().name, total, used)
        except (OSError, ValueError):
            continue  # another driver's, or it goes away just now

"""Memory and processor time of servers, of the machine and of its GPUs.

GPU memory is amdgpu's, from sysfs. NVIDIA's driver tells it only to programs that may open its
devices, and magid may not: it parses files from the network. dcgm-exporter is for those.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    import psutil


class ServerFigures(Struct, frozen=True):
    """What one server uses now; None where it cannot be known."""

    memory_bytes: int | None = None
    cpu_seconds: float | None = None


def process_figures(pid: int) -> ServerFigures:
    """Memory and CPU time of one process. Blocks; never raises.

    Memory is what would be free if the process ended (USS), which leaves out a model file that
    another process maps too; where the kernel does not tell, what it holds in memory (RSS).
    """
    import psutil

    try:
        process = psutil.Process(pid)
        cpu = process.cpu_times()
        return ServerFigures(_memory_of(process), cpu.user + cpu.system)
    except psutil.Error:
        return ServerFigures()


def _memory_of(process: "psutil.Process") -> int:
    import psutil

    try:
        return int(process.memory_full_info().uss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)


def machine_memory() -> dict[str, int]:
    """`total` and `available` memory of this machine, in bytes. Reads /proc/meminfo alone."""
    import psutil

    memory = psutil.virtual_memory()
    return {"total": int(memory.total), "available": int(memory.available)}


CARDS = Path("/sys/class/drm")
_CARD = re.compile(r"card[0-9]+")  # and not card0-HDMI-A-1, which is a plug of it


class GpuMemory(Struct, frozen=True):
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

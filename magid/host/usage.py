"""Memory and processor time of servers, of the machine and of its GPUs.

GPU memory is only known for amdgpu, from sysfs. NVIDIA's driver reports it to programs that may
open its devices; magid may not, because it parses files from the network. Use dcgm-exporter there.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    import psutil


GROUPS = Path("/sys/fs/cgroup")


class ServerFigures(Struct, frozen=True):
    """What one server uses now; None if unknown."""

    memory_bytes: int | None = None
    cpu_seconds: float | None = None


def process_figures(pid: int) -> ServerFigures:
    """Returns memory and CPU time of one process. Blocks; never raises.

    Memory is what the end of the process would free (USS), without a model file that another
    process maps too. If the kernel does not show that to us, it is the resident size (RSS).
    """
    import psutil

    try:
        process = psutil.Process(pid)
        cpu = process.cpu_times()
        return ServerFigures(_memory_of(process), cpu.user + cpu.system)
    except (psutil.Error, OSError):  # OSError: no descriptor is free
        return ServerFigures()


def _memory_of(process: "psutil.Process") -> int:
    import psutil

    try:
        return int(process.memory_full_info().uss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)


def group_figures(group: str, pid: int, root: Path = GROUPS) -> ServerFigures | None:
    """Returns what a control group (v2) uses; None where it is not known. Blocks.

    Without the memory controller, memory is what `process_figures` says of the process `pid`.
    Source: Linux, Documentation/admin-guide/cgroup-v2.rst, memory.current and cpu.stat.
    """
    folder = root / group.strip("/")
    try:
        rows = [line.split() for line in (folder / "cpu.stat").read_text().splitlines()]
        cpu = int(dict(rows)["usage_usec"]) / 1e6
    except (OSError, ValueError, KeyError):
        return None
    try:
        return ServerFigures(int((folder / "memory.current").read_text()), cpu)
    except (OSError, ValueError):
        return ServerFigures(process_figures(pid).memory_bytes, cpu)


def held_by_process(pid: int) -> int | None:
    """Returns what a process holds beside files, in bytes: it cannot be dropped. Blocks."""
    import psutil

    try:
        resident = psutil.Process(pid).memory_info()
    except (psutil.Error, OSError):
        return None
    return max(0, int(resident.rss - resident.shared))


def held_in_group(group: str, root: Path = GROUPS) -> int | None:
    """Returns what a control group (v2) holds beside files, in bytes; None: not known. Blocks.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst, memory.stat, anon.
    """
    try:
        with (root / group.strip("/") / "memory.stat").open() as file:
            found = (line.split() for line in file)
            return next((int(words[1]) for words in found if words[0] == "anon"), None)
    except (OSError, ValueError, IndexError):
        return None


def machine_memory() -> dict[str, int]:
    """Returns the machine's `total` and `available` memory, in bytes. Reads only /proc/meminfo.

    Where clients have used up the descriptors, what is available leaves out the page cache.
    """
    import psutil

    try:
        memory = psutil.virtual_memory()
    except OSError:
        page = os.sysconf("SC_PAGE_SIZE")
        found = {"total": "SC_PHYS_PAGES", "available": "SC_AVPHYS_PAGES"}
        return {name: os.sysconf(key) * page for name, key in found.items()}
    return {"total": int(memory.total), "available": int(memory.available)}


CARDS = Path("/sys/class/drm")
_CARD = re.compile(r"card[0-9]+")  # but not its connectors, like card0-HDMI-A-1


class GpuMemory(Struct, frozen=True):
    """Memory of the GPU at this PCI address, in bytes."""

    address: str
    total: int
    used: int


def memory(cards: Path = CARDS) -> list[GpuMemory]:
    """Returns the GPUs whose driver reports memory, by address. Reads a few files of sysfs.

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
            continue  # another driver's, or just unplugged

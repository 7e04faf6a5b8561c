"""What control groups leave of the machine's memory: those of a container, a slice, a service.

In a group that is full the kernel swaps or kills, whatever /proc/meminfo calls available.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst (memory.max, memory.high, memory.current,
memory.stat) and cgroup-v1/memory.rst (memory.limit_in_bytes, memory.usage_in_bytes, memory.stat).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from msgspec import Struct

from magid.host.usage import machine_memory

SLICE: Final = "magi.slice"  # where systemd runs the models
_UNITS: Final = (".slice", ".service", ".scope")


class _Version(Struct, frozen=True):
    """The files of one version. What `dropped` counts is given back before anything is killed."""

    mount: str
    controller: str  # in /proc/self/cgroup
    limits: tuple[str, ...]
    used: str
    dropped: tuple[str, ...]


_SECOND: Final = _Version(
    "sys/fs/cgroup", "", ("memory.max", "memory.high"), "memory.current",
    ("active_file", "inactive_file", "slab_reclaimable"),
)  # fmt: skip
_FIRST: Final = _Version(
    "sys/fs/cgroup/memory", "memory", ("memory.limit_in_bytes",), "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
)  # fmt: skip


def memory_within(slice_name: str | None = None, root: Path = Path("/")) -> dict[str, int]:
    """Returns the `total` and `available` memory of servers, in bytes. Blocks; never raises.

    Servers are in this slice of systemd's; None: in the control group of this process.
    """
    return _within(machine_memory(), slice_name, root)


def _within(memory: Mapping[str, int], slice_name: str | None, root: Path) -> dict[str, int]:
    total, available = memory["total"], memory["available"]
    groups = groups_in(_text(root / "proc/self/cgroup"))
    for version in (_SECOND, _FIRST):
        group = groups.get(version.controller)
        if group is None:
            continue
        place = group if slice_name is None else beside(group, slice_name)
        for folder in _above(root / version.mount, place):
            limit = _limit(folder, version)
            if limit is not None and limit < memory["total"]:
                total = min(total, limit)
                available = min(available, max(0, limit - _held(folder, version)))
    return {"total": total, "available": available}


def groups_in(text: str) -> dict[str, str]:
    """Returns controller -> group by /proc/PID/cgroup; "" is the one of version 2. Pure."""
    rows = [line.split(":", 2) for line in text.splitlines()]
    return {controller: row[2] for row in rows if len(row) == 3 for controller in row[1].split(",")}


def beside(group: str, slice_name: str) -> str:
    """Returns the group of a slice at the top of the systemd that this group is of. Pure."""
    path = PurePosixPath("/")
    for name in PurePosixPath(group).parts[1:]:
        if name.endswith(_UNITS):
            break
        path /= name
    return str(path / slice_name)


def _above(mount: Path, group: str) -> Iterator[Path]:
    """Yields the group's folder and all above it, as far as this mount shows them.

    A container may see its own group as the mount itself, and be told of it by another path.
    """
    path = PurePosixPath(group)
    for one in (path, *path.parents):
        yield mount / str(one).strip("/")


def _limit(folder: Path, version: _Version) -> int | None:
    found = [_number(_text(folder / name)) for name in version.limits]
    return min((limit for limit in found if limit is not None), default=None)


def _held(folder: Path, version: _Version) -> int:
    """Returns what the group's processes hold that the kernel cannot drop."""
    rows = (line.split() for line in _text(folder / "memory.stat").splitlines())
    stat = {row[0]: _number(row[1]) or 0 for row in rows if len(row) == 2}
    dropped = sum(stat.get(name, 0) for name in version.dropped)
    return max(0, (_number(_text(folder / version.used)) or 0) - dropped)


def _number(text: str) -> int | None:
    """Returns None where there is no limit (`max`), or no file."""
    return int(text) if text.strip().isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

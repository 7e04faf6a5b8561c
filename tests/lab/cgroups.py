"""A control group of its own for each container.

systemd-nspawn with --keep-unit puts the container where its caller is; two of one caller would
share every `system.slice/NAME.service` and take each other's processes for their own.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.lab.layers import LabError

KILL = "cgroup.kill"  # from Linux 5.14 on
GONE_S = 60.0  # killed processes leave their group within milliseconds
LOOK_S = 0.01


def homes(mountinfo: str, own: str) -> Iterator[tuple[bool, Path]]:
    """Whether it is version 2, and the folder of this process, of the hierarchies in use.

    Where the old hierarchies are mounted too, systemd-nspawn mirrors the path into the named one.
    The texts are /proc/self/mountinfo and /proc/self/cgroup (proc(5), cgroups(7)).
    """
    paths = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        paths[controllers] = path
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        root, point = before.split()[3:5]
        kind, _, options = after.split(" ", 2)
        name = {"cgroup2": "", "cgroup": "name=systemd"}.get(kind)
        if name in paths and name in ("", *options.split(",")):
            yield kind == "cgroup2", Path(point) / paths[name].removeprefix(root).lstrip("/")


def are_of_both_versions() -> bool:
    """Whether containers with control groups of version 1 can be booted on this machine."""
    return any(not is_second for is_second, _ in _homes())


def make(name: str) -> Path:
    """A new group of this name below the caller's own."""
    for is_second, home in _homes():
        if is_second:
            group = home / name
            group.mkdir()
            return group
    raise LabError("cannot boot containers: no cgroup2 file system is mounted")


def remove(name: str) -> None:
    """End what still runs in the groups of this name, and remove them. Idempotent."""
    places = _homes()
    for is_second, home in places:
        if is_second and (home / name).exists():
            (home / name / KILL).write_text("1")
    for _, home in places:
        _remove_empty(home / name, time.monotonic() + GONE_S)


def _homes() -> list[tuple[bool, Path]]:
    mountinfo = Path("/proc/self/mountinfo").read_text()
    found = dict.fromkeys(homes(mountinfo, Path("/proc/self/cgroup").read_text()))
    return list(found)


def _remove_empty(group: Path, deadline: float) -> None:
    """A killed process stays in its group until its parent has fetched its status."""
    while group.exists():
        folders = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
        for folder in (*folders, group):
            with suppress(OSError):
                folder.rmdir()
        if not group.exists():
            return
        if time.monotonic() > deadline:
            raise LabError(f"cannot remove {group}: something still runs in it")
        time.sleep(LOOK_S)

"""Mounted file systems, and a watch for changes of mounts."""

import asyncio
import errno
import os
import re
import select
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

_TABLE: Final = Path("/proc/self/mountinfo")
_PAUSE_S: Final = 1.0
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_MAX_LINKS: Final = 40  # as Linux counts

# File systems of this machine's own disks and memory. Any other may wait for another machine, or
# for a program: NFS, CIFS, FUSE, and an automount that is yet to mount one of them.
_LOCAL: Final = frozenset(
    {
        *("bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660", "jfs"),
        *("ntfs3", "overlay", "ramfs", "rootfs", "squashfs", "tmpfs", "udf", "vfat", "xfs", "zfs"),
    }
)


def mounts_at(table: str, folders: Iterable[str]) -> frozenset[tuple[str, str, str]]:
    """Returns id, device and point of each mount above or below one of the folders. Pure.

    An id may be used again, so another disk in the same place is told by its device. `table` is
    the content of mountinfo, in which \\040 is a space. Automounts are left out: a scan
    mounts them again, so their changes mean nothing.
    """
    parted = [folder.rstrip("/") + "/" for folder in folders]
    rows = [(line.split(), line.partition(" - ")[2]) for line in table.splitlines()]
    automatic = {fields[4] for fields, rest in rows if rest.startswith("autofs ")}
    found = set()
    for fields, _ in rows:
        name = _plain(fields[4])
        above = name.rstrip("/") + "/"
        is_near = any(folder.startswith(above) or above.startswith(folder) for folder in parted)
        if is_near and fields[4] not in automatic:
            found.add((fields[0], fields[2], name))
    return frozenset(found)


def _plain(point: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), point)


def foreign_mounts(table: str) -> frozenset[str]:
    """Returns the mount points whose file system may wait for another machine or program. Pure.

    Of mounts in the same place the last one counts: it covers the others.
    """
    rows = (line.partition(" - ") for line in table.splitlines())
    types = {_plain(left.split()[4]): right.partition(" ")[0] for left, _, right in rows}
    return frozenset(point for point, kind in types.items() if kind not in _LOCAL)


def mount_on_the_way(
    path: str, mounts: Collection[str], link: Callable[[str], str | None]
) -> str | None:
    """Returns the first of the mounts that the kernel meets when it resolves the absolute path.

    `link` returns a symbolic link's target, or None; it may raise OSError, which ends the way. It
    is called for nothing in one of the mounts.
    """
    todo, here, links = path.split("/")[::-1], PurePosixPath("/"), 0
    while str(here) not in mounts and todo and links <= _MAX_LINKS:
        name = todo.pop()
        if name in ("", ".", ".."):
            here = here.parent if name == ".." else here
            continue
        below = here / name
        if str(below) in mounts:
            return str(below)
        try:
            target = link(str(below))
        except OSError:
            return None
        if target is None:
            here = below
            continue
        links += 1
        todo += target.split("/")[::-1]
        here = PurePosixPath("/") if target.startswith("/") else here
    return str(here) if str(here) in mounts else None


def may_hang(path: str) -> str | None:
    """Returns the mount because of which a look at the absolute path may never return, or None.

    It touches nothing on such a mount. A disk of this machine that hangs is not told.
    """
    try:
        table = _TABLE.read_text(errors="surrogateescape")
    except OSError:
        return None
    return mount_on_the_way(path, foreign_mounts(table), _link_at)


def _link_at(path: str) -> str | None:
    try:
        return str(Path(path).readlink())
    except OSError as error:
        if error.errno == errno.EINVAL:  # it is there, and no link
            return None
        raise


class MountWatch:
    """Calls `on_change` when a mount above or below the folders appears or disappears.

    Reads only /proc, so it cannot hang. Without /proc/self/mountinfo it does nothing. However many
    mounts change, such as those of containers, the table is read once in `pause_s` at most.
    """

    def __init__(
        self,
        folders: Callable[[], Iterable[str]],
        on_change: Callable[[], None],
        pause_s: float = _PAUSE_S,
    ) -> None:
        self._folders, self._on_change, self._pause_s = folders, on_change, pause_s
        self._timer: asyncio.TimerHandle | None = None
        self._descriptor: int | None = None
        self._poll: select.epoll | None = None
        self._seen: frozenset[tuple[str, str, str]] = frozenset()

    def open(self) -> None:
        """Starts watching, on the running event loop."""
        with suppress(OSError):
            self._descriptor = os.open(_TABLE, os.O_RDONLY | os.O_CLOEXEC)
            # The table is always readable, and a change is urgent data (EPOLLPRI). An event loop
            # cannot wait for that, but it can wait for an epoll that does.
            self._poll = select.epoll()
            self._poll.register(self._descriptor, select.EPOLLPRI)
            self._seen = self._present()
            asyncio.get_running_loop().add_reader(self._poll.fileno(), self._note)

    def close(self) -> None:
        """Stops watching. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        if self._poll is not None:
            asyncio.get_running_loop().remove_reader(self._poll.fileno())
            self._poll.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._poll = self._descriptor = None

    def _note(self) -> None:
        """Acknowledges a change. The table is read when `pause_s` is over."""
        assert self._poll is not None
        self._poll.poll(0)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pause_s, self._look)

    def _look(self) -> None:
        self._timer = None
        before, self._seen = self._seen, self._present()
        if self._seen != before:
            self._on_change()

    def _present(self) -> frozenset[tuple[str, str, str]]:
        with suppress(OSError):
            return mounts_at(_TABLE.read_text(errors="surrogateescape"), self._folders())
        return self._seen

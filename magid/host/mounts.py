"""Mounted file systems, and a watch for changes of mounts."""

import asyncio
import os
import re
import select
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

_TABLE: Final = Path("/proc/self/mountinfo")
_PAUSE_S: Final = 1.0
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


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
        name = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        above = name.rstrip("/") + "/"
        is_near = any(folder.startswith(above) or above.startswith(folder) for folder in parted)
        if is_near and fields[4] not in automatic:
            found.add((fields[0], fields[2], name))
    return frozenset(found)


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

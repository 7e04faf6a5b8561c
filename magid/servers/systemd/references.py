"""Keeps the launcher running while there are units: it holds the references on them.

systemd forgets a transient unit that stops without a reference on it, and `systemctl start` knows
it no more. The references are the launcher's; when it is stopped, killed for good, or fails, they
are gone. It is started by its socket, and takes them again before it answers.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from magid.errors import MagidError
from magid.systemd.bus import MANAGER_PATH, PROPERTIES, Bus

PATH: Final = f"{MANAGER_PATH}/unit/magi_2dlauncher_2eservice"
_UNIT: Final = "org.freedesktop.systemd1.Unit"
_FIRST_PAUSE_S: Final = 0.5  # before another try
_LONGEST_PAUSE_S: Final = 30.0
# A launcher that is ending is told again when it has ended.
_ENDED: Final = frozenset({"inactive", "failed"})

log = logging.getLogger(__name__)


class References:
    """Wakes the launcher when it has ended while there is a unit; `mark` says that it may have.

    `wake` returns when it has answered. It may raise MagidError, as the bus may: then all is tried
    again, with a pause that grows.
    """

    def __init__(
        self,
        needed: Callable[[], bool],
        bus: Callable[[], Bus],
        wake: Callable[[], Awaitable[None]],
    ) -> None:
        self._needed = needed
        self._bus = bus
        self._wake = wake
        self._marked = asyncio.Event()
        self._task = asyncio.create_task(self._follow(), name="keep the launcher running")

    def mark(self) -> None:
        """The launcher, or the units that there are, may have changed."""
        self._marked.set()

    async def end(self) -> None:
        """Idempotent."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _follow(self) -> None:
        pause, last = _FIRST_PAUSE_S, ""
        while True:
            await self._marked.wait()
            self._marked.clear()
            try:
                if await self._restored():
                    log.info("magi-launcher had ended, and holds its units again")
            except MagidError as error:
                if error.message != last:
                    log.warning("%s; trying again", error.message)
                last = error.message
                asyncio.get_running_loop().call_later(pause, self.mark)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
            else:
                pause, last = _FIRST_PAUSE_S, ""

    async def _restored(self) -> bool:
        """Whether there was something to do. Raises MagidError where it cannot be done."""
        if not self._needed():
            return False
        (state,) = await self._bus().call(PATH, PROPERTIES, "Get", "ss", _UNIT, "ActiveState")
        if state not in _ENDED:
            return False
        await self._wake()
        return True

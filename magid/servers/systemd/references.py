"""Keeps the launcher running while there are units, because it holds the references on them.

systemd forgets a transient unit that stops without a reference on it, and `systemctl start` then no
longer knows it. The launcher owns the references; they are lost when it is stopped, killed for
good, or fails. Its socket starts it again, and it takes the references again before it answers.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from magid.errors import MagidError
from magid.systemd.bus import MANAGER_PATH, PROPERTIES, Bus

PATH: Final = f"{MANAGER_PATH}/unit/magi_2dlauncher_2eservice"
_UNIT: Final = "org.freedesktop.systemd1.Unit"
_FIRST_PAUSE_S: Final = 0.5  # before the next try
_LONGEST_PAUSE_S: Final = 30.0
# A launcher that is still ending causes another signal once it has ended.
_ENDED: Final = frozenset({"inactive", "failed"})

log = logging.getLogger(__name__)


class References:
    """Wakes the launcher when it has ended while there is a unit. Call `mark` when it may have.

    `wake` returns when the launcher has answered. If it or the bus raises MagidError, the attempt
    is repeated after a growing pause.
    """

    def __init__(
        self,
        needed: Callable[[], bool],
        bus: Callable[[], Bus],
        wake: Callable[[], Awaitable[object]],
    ) -> None:
        self._needed = needed
        self._bus = bus
        self._wake = wake
        self._marked = asyncio.Event()
        self._task = asyncio.create_task(self._follow(), name="keep the launcher running")

    def mark(self) -> None:
        """Notes that the launcher or the set of units may have changed."""
        self._marked.set()

    async def end(self) -> None:
        """Stops the task. Idempotent."""
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
        """Wakes the launcher if needed; returns whether it was. Raises MagidError if that fails."""
        if not self._needed():
            return False
        (state,) = await self._bus().call(PATH, PROPERTIES, "Get", "ss", _UNIT, "ActiveState")
        if state not in _ENDED:
            return False
        await self._wake()
        return True

"""Sees when a server is ready: the one way for children and for units.

A poll, because llama-server has no other certain sign; what a child prints only hastens the next
check. It begins fast and slows down to `readiness_check_interval`, by default 20 ms: a server is
seen that soon after it is ready. With a longer interval that holds for loads of two seconds, and a
longer load is seen within a hundredth of it. Each check takes processor time from the load.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from msgspec import Struct

from magid.errors import ServerUnreachable
from magid.host.ports import HostPort
from magid.llama.client import Health, check_health, why_foreign
from magid.servers.backend import ObservedServer

_ANSWER_S = 2.0
_FIRST_S = 0.005  # a small model is ready within 0.1 s
_SOON_S = 0.02  # which a load of _SOON_S / _EARLY_SHARE has come to
_EARLY_SHARE = 0.05  # of the time so far
_SHARE = 0.01


class Pace(Struct, frozen=True):
    """How often and how long to look, in seconds."""

    check_interval_s: float  # longest pause between checks
    longest_s: float = math.inf
    least_s: float = 0.0  # shortest pause, if the longest is not shorter

    def pause_s(self, took_s: float) -> float:
        """Returns how long to wait before the next check, after `took_s` seconds. Pure."""
        soon_s = max(_FIRST_S, min(_SOON_S, _EARLY_SHARE * took_s), _SHARE * took_s)
        return min(max(self.least_s, soon_s), self.check_interval_s)


class TooLate(Exception):
    """It was not ready in time; `health` is what its last answer was."""

    def __init__(self, health: Health) -> None:
        super().__init__(health)
        self.health = health


async def becomes_ready(
    endpoint: HostPort,
    pace: Pace,
    has_ended: Callable[[float], Awaitable[bool]],
    is_confirmed: Callable[[], Awaitable[bool]],
    on_loading: Callable[[], None] = lambda: None,
) -> bool:
    """Returns True once it answers and is confirmed; False if its process ended. Raises TooLate.

    `has_ended` waits so many seconds at most, less if the process ends. `is_confirmed` tells
    whether our server answers; False: it went away, or cannot be asked yet. What these raise is
    passed on.
    """
    began, health = time.monotonic(), Health.UNREACHABLE
    while (left := pace.longest_s - (took := time.monotonic() - began)) > 0:
        if await has_ended(min(pace.pause_s(took), left)):
            return False
        health = await check_health(endpoint, timeout_s=max(min(left, _ANSWER_S), 0.1))
        if health is Health.OK and await is_confirmed():
            return True
        if health is Health.LOADING:
            on_loading()
    raise TooLate(health)


class UnitReadiness:
    """Sees a unit's server become ready, sooner than systemd, which starts a Python to look.

    wait_ready.py has the last word: if another program answers, it fails the unit.
    """

    def __init__(self, keys: Path, check_interval_s: float) -> None:
        self._keys = keys
        self._pace = Pace(check_interval_s)

    async def __call__(self, server: ObservedServer) -> bool:
        """Returns True when the server is ready, False if another program answers. Never raises.

        To be cancelled when the process ends.
        """
        endpoint = HostPort(server.host, server.port)
        foreign = asyncio.Event()

        async def is_confirmed() -> bool:
            try:
                key = (self._keys / f"{server.port}.key").read_text().strip()
                why = await why_foreign(endpoint, key, server.model_id, uid=server.uid)
            except (OSError, ServerUnreachable):
                return False
            if why:
                foreign.set()
            return True

        await becomes_ready(endpoint, self._pace, _sleep, is_confirmed)
        return not foreign.is_set()


async def _sleep(seconds: float) -> bool:
    await asyncio.sleep(seconds)
    return False

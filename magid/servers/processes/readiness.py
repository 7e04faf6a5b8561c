"""Sees when a child is ready. What it prints only hastens the next check.

At the pace of `standalone/wait_ready`, which sees it for units.
"""

import time
from collections.abc import Awaitable, Callable

from msgspec import Struct

from magid.host.ports import HostPort
from magid.llama.client import Health, check_health
from magid.standalone.wait_ready import pause_s

_ANSWER_S = 2.0


class Pace(Struct, frozen=True):
    """How often and how long to look, in seconds."""

    check_interval_s: float  # longest pause between checks
    longest_s: float
    least_s: float  # shortest pause, if the longest is not shorter

    def pause_s(self, took_s: float) -> float:
        """Returns how long to wait before the next check, after `took_s` seconds. Pure."""
        return max(min(self.least_s, self.check_interval_s), pause_s(took_s, self.check_interval_s))


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

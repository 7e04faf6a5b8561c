"""How much a token may ask of the gateway: requests a minute and at once, tokens a day.

`Limiter` lives on the event loop and keeps its counts in memory. Requests a minute refill evenly,
so a caller may send its whole minute at once and then one each 60/N seconds. The tokens of a day
(00:00 UTC to 00:00 UTC) are counted when a request ends: the last one of a day may go over.
"""

import math
import time
from collections.abc import Callable

from msgspec import Struct

from magid.errors import RateLimited
from magid.wording.counts import counted

DAY_S = 86_400


class Limits(Struct, frozen=True):
    """None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    requests_at_once: int | None = None


class _Count(Struct):
    """Of one token."""

    left: float  # requests that may be sent now
    at: float  # when that was so, on the monotonic clock
    under_way: int = 0


class Limiter:
    """One for all connections. `used_today` tells how many tokens a name has used, by UTC day."""

    def __init__(self, used_today: Callable[[str], int]) -> None:
        self._used_today = used_today
        self._counts: dict[str, _Count] = {}  # by the id of each token used since the start

    def enter(self, name: str, ident: str, limits: Limits) -> None:
        """Counts a request, which ends with `leave`. Raises RateLimited for one that may not be."""
        count = self._count(ident, limits)
        at_once, a_minute, a_day = (
            limits.requests_at_once, limits.requests_per_minute, limits.tokens_per_day,
        )  # fmt: skip
        if at_once is not None and count.under_way >= at_once:
            raise _refused(
                f"token {name!r} has {counted(count.under_way, 'request')} under way, and may have "
                f"{at_once}; "
                "wait until one has ended", 1,
            )  # fmt: skip
        if a_day is not None and (used := self._used_today(name)) >= a_day:
            rest = seconds_of_day_left(time.time())
            raise _refused(
                f"token {name!r} has used {counted(used, 'token')} today, and may use {a_day} a "
                "day; it may go on at 00:00 UTC", rest,
            )  # fmt: skip
        if a_minute is not None:
            if count.left < 1:
                wait = math.ceil((1 - count.left) * 60 / a_minute)
                raise _refused(
                    f"token {name!r} may send {counted(a_minute, 'request')} a minute; try again "
                    f"in {wait} s",
                    wait,
                )
            count.left -= 1
        count.under_way += 1

    def leave(self, ident: str) -> None:
        """The request has ended."""
        count = self._counts.get(ident)
        if count is not None and count.under_way:
            count.under_way -= 1

    def headers(self, name: str, ident: str, limits: Limits) -> dict[str, str]:
        """Returns what a response says of the limits, with the names that OpenAI gave them."""
        found: dict[str, str] = {}
        if limits.requests_per_minute is not None:
            left = self._count(ident, limits).left
            full = math.ceil((limits.requests_per_minute - left) * 60 / limits.requests_per_minute)
            found |= _headers("requests", limits.requests_per_minute, int(left), full)
        if limits.tokens_per_day is not None:
            rest = max(0, limits.tokens_per_day - self._used_today(name))
            end = seconds_of_day_left(time.time())
            found |= _headers("tokens", limits.tokens_per_day, rest, end)
        return found

    def _count(self, ident: str, limits: Limits) -> _Count:
        """What may be sent now. A new limit begins with a full minute."""
        now, most = time.monotonic(), float(limits.requests_per_minute or math.inf)
        count = self._counts.get(ident)
        if count is None:
            count = self._counts[ident] = _Count(most, now)
        if math.isfinite(count.left):
            count.left += (now - count.at) * most / 60
        count.left = min(most, count.left)
        count.at = now
        return count


def seconds_of_day_left(now: float) -> int:
    """To 00:00 UTC, at least 1."""
    return max(1, math.ceil(DAY_S - now % DAY_S))


def _refused(why: str, seconds: int) -> RateLimited:
    return RateLimited(f"cannot take the request: {why}", retryAfterSeconds=seconds)


def _headers(what: str, limit: int, left: int, reset_s: int) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{what}": str(limit),
        f"x-ratelimit-remaining-{what}": str(left),
        f"x-ratelimit-reset-{what}": f"{reset_s}s",
    }

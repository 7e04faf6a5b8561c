"""Whether a server may get requests, by what came of those before. Pure: the clock is the caller's.

Closed is well. A lost connection opens it at once, answers of status 5xx after a few in a row;
open for a while that doubles each time, then one request is let through (half-open): it decides.
"""

from dataclasses import dataclass

FAILURES = 3  # answers of status 5xx in a row
FIRST_S, MAX_S = 1.0, 30.0


@dataclass(slots=True)
class Breaker:
    """Of one server process."""

    failures: int = 0
    open_until: float | None = None
    trips: int = 0
    is_trying: bool = False  # half-open: one request is on its way
    reason: str = ""

    def lets_pass(self, now: float) -> bool:
        if self.open_until is None:
            return True
        return now >= self.open_until and not self.is_trying

    def began(self, now: float) -> None:
        """A request goes there."""
        if self.open_until is not None and now >= self.open_until:
            self.is_trying = True

    def succeeded(self) -> None:
        self.failures, self.trips, self.open_until, self.is_trying = 0, 0, None, False

    def abandoned(self) -> None:
        """The request ended without a verdict: its client left."""
        self.is_trying = False

    def failed(self, now: float, reason: str, *, at_once: bool) -> bool:
        """Whether this opened it."""
        self.failures += 1
        self.reason = reason
        if not (at_once or self.is_trying or self.failures >= FAILURES):
            return False
        self.is_trying = False
        self.open_until = now + min(MAX_S, FIRST_S * 2**self.trips)
        self.trips += 1
        return True

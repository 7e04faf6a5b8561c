"""Limits the rate of one kind of log entries, so that no client can fill the log. Pure."""

from msgspec import Struct

LIMIT = 20  # entries in WINDOW_S
WINDOW_S = 10.0


class RateLimit(Struct):
    """Allows LIMIT entries in each window, and counts the others."""

    ends_at: float = 0.0  # of the window
    logged: int = 0  # in the window
    suppressed: int = 0  # since the last entry that was logged

    def take(self, now: float) -> str | None:
        """Returns what to append to the entry's text, or None if it must not be logged."""
        if now >= self.ends_at:
            self.ends_at, self.logged = now + WINDOW_S, 0
        if self.logged >= LIMIT:
            self.suppressed += 1
            return None
        self.logged += 1
        more, self.suppressed = self.suppressed, 0
        return f" ({more} more were not logged)" if more else ""


REFUSED, FAILED = RateLimit(), RateLimit()  # requests to the API and to the gateway together

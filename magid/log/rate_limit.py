"""How many entries of one kind the log takes in a while: no client can fill it. Pure."""

from msgspec import Struct

MOST = 20  # entries that are logged within WINDOW_S
WINDOW_S = 10.0


class Ration(Struct):
    """Lets MOST through in each window, and counts the others."""

    ends_at: float = 0.0
    told: int = 0
    untold: int = 0

    def take(self, now: float) -> str | None:
        """What to put behind the text; None: it is not told."""
        if now >= self.ends_at:
            self.ends_at, self.told = now + WINDOW_S, 0
        if self.told >= MOST:
            self.untold += 1
            return None
        self.told += 1
        more, self.untold = self.untold, 0
        return f" (and {more} more that are not told)" if more else ""


REFUSED, FAILED = Ration(), Ration()  # requests, wherever in magid they end

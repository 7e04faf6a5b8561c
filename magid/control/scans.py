"""How reading the model folders went, since the start."""

import time
from dataclasses import dataclass


@dataclass(slots=True)
class Scans:
    """The count, and the last one."""

    done: int = 0
    failed: int = 0
    last_failed: bool = False
    last_at: float | None = None  # of the last that was done; seconds since the epoch
    last_duration_s: float = 0.0

    def note(self, took_s: float | None) -> None:
        """One has ended just now, after so long; None: it failed."""
        self.last_failed = took_s is None
        if took_s is None:
            self.failed += 1
        else:
            self.done += 1
            self.last_at, self.last_duration_s = time.time(), took_s

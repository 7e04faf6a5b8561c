"""What a soak did and found: one line for a person, and failures that a test can assert on."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SHOWN = 5  # failures in the line of figures; all are kept


@dataclass(slots=True)
class Figures:
    """Of one topic. `seed` makes the same run again."""

    topic: str
    seed: int
    rounds: int = 0
    failures: list[str] = field(default_factory=list)
    worst_recovery_s: float = 0.0
    took_s: float = 0.0
    more: dict[str, object] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    @contextmanager
    def recovery(self) -> Iterator[None]:
        """Times how long it takes to be well again."""
        began = time.perf_counter()
        yield
        self.worst_recovery_s = max(self.worst_recovery_s, time.perf_counter() - began)

    def check(self, fine: bool, what: str) -> None:
        if not fine:
            self.failures.append(f"round {self.rounds}: {what}")

    def line(self) -> str:
        took = self.took_s or time.monotonic() - self._began
        parts = [
            f"{self.topic}: {self.rounds} rounds in {took:.1f} s (seed {self.seed})",
            f"{len(self.failures)} failures",
        ]
        if self.worst_recovery_s:
            parts.append(f"worst recovery {self.worst_recovery_s * 1000:.1f} ms")
        parts += [f"{name} {value}" for name, value in self.more.items()]
        return "; ".join([*parts, *self.failures[:SHOWN]])


def slope(samples: list[tuple[float, float]]) -> float:
    """Of the straight line through (x, y), by least squares; 0 for fewer than two samples."""
    count = len(samples)
    if count < 2:
        return 0.0
    mean_x = sum(x for x, _ in samples) / count
    mean_y = sum(y for _, y in samples) / count
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread if spread else 0.0


@dataclass(frozen=True, slots=True)
class Growth:
    """Of a figure from its first sample to its last, by the straight line through them."""

    amount: float
    error: float  # its standard error, from how far the samples lie from the line

    def exceeds(self, most: float) -> bool:
        """Whether it is more than that, and not by chance: beyond two standard errors."""
        return self.amount - 2 * self.error > most

    def __str__(self) -> str:
        return f"{self.amount:+.2f} ± {self.error:.2f}"


def growth(samples: list[tuple[float, float]]) -> Growth:
    """Of samples (x, y). With fewer than three nothing is known: the error is infinite."""
    count = len(samples)
    if count < 3:
        return Growth(0.0, math.inf)
    rise = slope(samples)
    mean_x = sum(x for x, _ in samples) / count
    mean_y = sum(y for _, y in samples) / count
    off = sum((y - mean_y - rise * (x - mean_x)) ** 2 for x, y in samples)
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    span = samples[-1][0] - samples[0][0]
    error = math.sqrt(off / (count - 2) / spread) if spread else math.inf
    return Growth(rise * span, error * span)

"""Which of several servers gets a request. Pure: the caller keeps the counts.

A server with a free slot always comes before one without; equals are taken in turn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from magid.catalog.profile import Strategy

# What a turn costs beside prompt tokens that must be read again, where nothing is learned yet.
DEFAULT_PREFILL_RATE = 500.0  # tokens per second
DEFAULT_SERVICE_S = 5.0  # seconds of one request


@dataclass(frozen=True, slots=True)
class Load:
    """One server at this moment."""

    key: str
    slots: int
    outstanding: int  # requests that it works on for us
    turns: float = 0.0  # taken so far, each the smaller the more weight it has
    weight: int = 1
    missing_tokens: float = 0.0  # of this prompt, that it does not have in its cache
    prefill_rate: float = DEFAULT_PREFILL_RATE
    service_s: float = DEFAULT_SERVICE_S

    @property
    def has_room(self) -> bool:
        return self.outstanding < self.slots


def choose(strategy: Strategy, loads: Sequence[Load]) -> Load | None:
    """The server to take; None if all are full."""
    free = [load for load in loads if load.has_room]
    return min(free, key=_KEYS[strategy]) if free else None


def _in_turn(load: Load) -> tuple[float, ...]:
    """Whoever has had the least of its share."""
    return (load.turns, load.outstanding / load.slots)


def _least_outstanding(load: Load) -> tuple[float, ...]:
    return ((load.outstanding + 1) / (load.slots * load.weight), load.turns)


def _affinity(load: Load) -> tuple[float, ...]:
    return (cost(load), load.turns)


def cost(load: Load) -> float:
    """Seconds until the answer could begin: what must be read again, and what shares the server.

    Slots share one device, so each request that is under way slows the next one down.
    """
    reading = load.missing_tokens / load.prefill_rate
    queue = load.service_s * load.outstanding / (load.slots * load.weight)
    return reading + queue


_KEYS: dict[Strategy, Callable[[Load], tuple[float, ...]]] = {
    Strategy.ROUND_ROBIN: _in_turn,
    Strategy.LEAST_OUTSTANDING: _least_outstanding,
    Strategy.PREFIX_AFFINITY: _affinity,
}

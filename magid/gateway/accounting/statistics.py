"""Counts ended requests for metrics. Bounded, whatever clients send. Pure.

`add` is called as a request ends and only stores it: its figures are read for many requests at
once, after their answers have gone out, or when the counts are read.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence

from msgspec import Struct, field

from magid.gateway.accounting.request_log import Outcome, Record, Usage
from magid.gateway.accounting.token_usage import OTHER, UsageStore
from magid.gateway.routing.resolver import ModelRoute

# Seconds. A token of a small model takes milliseconds, a long answer of a large one minutes; the
# bounds of OpenTelemetry's GenAI conventions, wider at the end, where local models are slow.
DURATION_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
FIRST_TOKEN_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
WAIT_BOUNDS = (0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
# Tokens a second: reading speed is 5 to 10.
SPEED_BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 250.0, 500.0, 1000.0)

NONE = "none"  # nothing was chosen
MAX_MODELS = 500  # counted one by one; models come and go while counts only grow
BATCH = 64  # about 0.4 ms


class Histogram:
    """Counts by size. `counts` has one more entry than `bounds`: what is above all of them."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """A bound holds what is equal to it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class ModelCounts(Struct):
    """Of one model in one tier."""

    first_token_s: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN_BOUNDS))
    waited_s: Histogram = field(default_factory=lambda: Histogram(WAIT_BOUNDS))
    speed: Histogram = field(default_factory=lambda: Histogram(SPEED_BOUNDS))
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0


# Model, tier, path, reason of the route, outcome, and the status or the name of magid's own error.
RequestKey = tuple[str, str, str, str, str, int | str]
DecisionKey = tuple[str, str, str]  # reason, the tier that was wanted, the tier that was taken


class RequestStatistics:
    """Lives on the event loop. `is_known` tells a model's id from whatever a client has sent.

    Requests that reached a server are counted in `usage` too.
    """

    def __init__(self, is_known: Callable[[str], bool], usage: UsageStore) -> None:
        self._is_known = is_known
        self._usage = usage
        self._new: list[tuple[Record, ModelRoute | None]] = []
        self._names: set[str] = set()
        self._requests: Counter[RequestKey] = Counter()
        self._decisions: Counter[DecisionKey] = Counter()
        self._models: dict[tuple[str, str], ModelCounts] = {}
        self._durations: dict[tuple[str, str, str], Histogram] = {}

    def add(self, record: Record, route: ModelRoute | None) -> None:
        """A request that has ended; without a route where none was found.

        It is not counted at once, since the end of its answer may still fail (`request_log.fail`).
        """
        if len(self._new) >= BATCH:
            self.settle()
        self._new.append((record, route))

    @property
    def requests(self) -> Counter[RequestKey]:
        self.settle()
        return self._requests

    @property
    def decisions(self) -> Counter[DecisionKey]:
        """Counts requests with a route."""
        self.settle()
        return self._decisions

    @property
    def models(self) -> dict[tuple[str, str], ModelCounts]:
        """Counts requests that reached a server, by model and tier."""
        self.settle()
        return self._models

    @property
    def durations_s(self) -> dict[tuple[str, str, str], Histogram]:
        """Counts successful requests by model, tier and path: typical lengths differ by path."""
        self.settle()
        return self._durations

    def settle(self) -> None:
        """Counts what has ended since; reading a figure does so too. Idempotent."""
        new, self._new = self._new, []
        for record, route in new:
            self._count(record, route)

    def _count(self, record: Record, route: ModelRoute | None) -> None:
        if record.model_id is not None:
            model = self._label(record.model_id, is_known=True)
        else:
            name = route.pool if route else record.requested_model
            model = self._label(name, is_known=self._is_known(name))
        tier = route.tier if route else None
        reason = route.reason if route and not route.is_open else NONE
        taken = tier or NONE
        self._requests[model, taken, record.path, reason, record.outcome, _code(record)] += 1
        if tier is not None and route is not None:
            self._decisions[reason, route.wanted or tier, tier] += 1
        if record.sent_s is not None:
            counts = self._models.get((model, taken))
            if counts is None:
                counts = self._models[model, taken] = ModelCounts()
            usage = record.usage
            _measure(counts, record, usage)
            self._usage.count(record.at, record.token, model, usage or record.estimate)
        if record.outcome is Outcome.OK and record.duration_s is not None:
            whole = self._durations.get((model, taken, record.path))
            if whole is None:
                whole = self._durations[model, taken, record.path] = Histogram(DURATION_BOUNDS)
            whole.observe(record.duration_s)

    def _label(self, name: str, *, is_known: bool) -> str:
        if name in self._names:
            return name
        if len(self._names) >= MAX_MODELS or not is_known:
            return OTHER
        self._names.add(name)
        return name


def _code(record: Record) -> int | str:
    """Returns what the client got: a status, or the code of magid's own error."""
    if record.status is not None:
        return record.status
    # nginx's number for a client that has closed the connection before it got an answer.
    return 499 if record.outcome is Outcome.CANCELLED else record.problem


def _measure(counts: ModelCounts, record: Record, usage: Usage | None) -> None:
    if record.sent_s is not None:
        counts.waited_s.observe(record.sent_s)
    if record.outcome is Outcome.OK and record.first_token_s is not None:
        counts.first_token_s.observe(record.first_token_s)
    if usage is None:
        return
    counts.prompt_tokens += usage.prompt_tokens or 0
    counts.cached_tokens += usage.cached_tokens or 0
    counts.answer_tokens += usage.answer_tokens or 0
    counts.draft_tokens += usage.draft_tokens or 0
    counts.accepted_tokens += usage.accepted_tokens or 0
    speed = record.speed_of(usage)
    if speed is not None:
        counts.speed.observe(speed)

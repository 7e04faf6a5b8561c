"""What went wrong lately, by model, and when it may be tried again. Pure.

Each failure in a row makes the pause twice as long; one success, or another configuration of the
model, ends it.
"""

from dataclasses import dataclass

from magid.errors import MagidError

FIRST_S, MAX_S = 5.0, 300.0


@dataclass(frozen=True, slots=True)
class Failure:
    """The last one of a model, after `count` in a row."""

    error: MagidError
    until: float  # no other try before
    pause_s: float
    count: int = 1
    specs: frozenset[str] = frozenset()  # hashes of what was tried


class Failures:
    """Of one kind of action."""

    def __init__(self) -> None:
        self._by_model: dict[str, Failure] = {}

    def failed(
        self, model_id: str, error: MagidError, now: float, specs: frozenset[str] = frozenset()
    ) -> float:
        """How long the pause is."""
        before = self._by_model.get(model_id)
        count = before.count + 1 if before and before.specs == specs else 1
        pause_s = min(MAX_S, FIRST_S * 2.0 ** min(count - 1, 10))
        self._by_model[model_id] = Failure(error, now + pause_s, pause_s, count, specs)
        return pause_s

    def succeeded(self, model_id: str) -> None:
        """Idempotent."""
        self._by_model.pop(model_id, None)

    def of(self, model_id: str, now: float, specs: frozenset[str] = frozenset()) -> Failure | None:
        """The failure after which it is not tried yet. None: it may be."""
        failure = self._by_model.get(model_id)
        if failure is None or now >= failure.until or failure.specs != specs:
            return None
        return failure

    @property
    def models(self) -> frozenset[str]:
        """Those of which a failure is remembered, its pause over or not."""
        return frozenset(self._by_model)

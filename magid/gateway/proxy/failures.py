"""Recent failures by model, and when the action may be retried. Pure.

Each failure in a row doubles the pause, but not for lack of memory, which may come back at any
time; one success, or another configuration of the model, ends it.
"""

from msgspec import Struct

from magid.errors import DoesNotFit, MagidError

FIRST_S, MAX_S = 5.0, 300.0


class Failure(Struct, frozen=True):
    """The last failure of a model, after `count` in a row."""

    error: MagidError
    until: float  # no retry before
    pause_s: float
    count: int = 1
    specs: frozenset[str] = frozenset()  # hashes of what was tried


class Failures:
    """The failures of one kind of action."""

    def __init__(self) -> None:
        self._by_model: dict[str, Failure] = {}

    def failed(
        self, model_id: str, error: MagidError, now: float, specs: frozenset[str] = frozenset()
    ) -> float:
        """Records a failure; returns the length of the pause."""
        before = self._by_model.get(model_id)
        count = before.count + 1 if before and before.specs == specs else 1
        growth = 0 if isinstance(error, DoesNotFit) else min(count - 1, 10)
        pause_s = min(MAX_S, FIRST_S * 2.0**growth)
        self._by_model[model_id] = Failure(error, now + pause_s, pause_s, count, specs)
        return pause_s

    def succeeded(self, model_id: str) -> None:
        """Clears the failure. Idempotent."""
        self._by_model.pop(model_id, None)

    def of(self, model_id: str, now: float, specs: frozenset[str] = frozenset()) -> Failure | None:
        """Returns the failure whose pause still lasts; None: the action may be tried."""
        failure = self._by_model.get(model_id)
        if failure is None or now >= failure.until or failure.specs != specs:
            return None
        return failure

    @property
    def models(self) -> frozenset[str]:
        """Returns the models with a recorded failure, whether or not its pause is over."""
        return frozenset(self._by_model)

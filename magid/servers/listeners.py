"""Callbacks that are called for each change."""

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class Listeners(Generic[T]):
    """The listeners of one kind of changes. Lives on the event loop; listeners must not block."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[T], None]] = []
        self._pending: deque[T] = deque()
        self._is_notifying = False

    def __len__(self) -> int:
        return len(self._listeners)

    def subscribe(self, listener: Callable[[T], None]) -> Callable[[], None]:
        """Calls `listener` for each change from now on. The result unsubscribes; idempotent."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            with suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    def notify(self, change: T) -> None:
        """Calls all listeners with the change, in the order of their subscriptions.

        A listener may cause a further change, which is delivered after this one. One that raises
        is logged and stays subscribed; it must not undo the change.
        """
        self._pending.append(change)
        if self._is_notifying:
            return
        self._is_notifying = True
        try:
            while self._pending:
                next_change = self._pending.popleft()
                for listener in tuple(self._listeners):
                    _call(listener, next_change)
        finally:
            self._is_notifying = False


def _call(listener: Callable[[T], None], change: T) -> None:
    try:
        listener(change)
    except Exception:
        log.exception("a listener failed on %s", change)

"""A time in which something has to be done, whatever it waits for."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from magid.client import Refused

TIMED_OUT = 124  # as timeout(1)


@contextmanager
def within(seconds: float | None, message: str) -> Iterator[None]:
    """Raises Refused with `message` when the time is over; None: no limit.

    By a signal, since a read, a write and a connect all have to end; for the main thread only.
    One inside of another one is fine: the outer one goes on behind it.
    """
    if seconds is None:
        yield
        return

    def over(*_: object) -> None:
        raise Refused(message, TIMED_OUT)

    before = signal.signal(signal.SIGALRM, over)
    rest, _ = signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, rest)
        signal.signal(signal.SIGALRM, before)

"""A time in which something has to be done, whatever it waits for."""

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from magid.cli.client import Refused

TIMED_OUT = 124  # as timeout(1)
LONGEST_S = 1e8  # three years: what the timer takes


def seconds(text: str) -> float:
    """The value of an option. For argparse, which says it to the person."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text!r} should be a number of seconds above 0")
    return value


@contextmanager
def within(limit_s: float | None, message: str) -> Iterator[None]:
    """Raises Refused with `message` when the time is over; None: no limit.

    By a signal, since a read, a write and a connect all have to end; for the main thread only.
    One inside of another one is fine: the outer one goes on behind it.
    """
    if limit_s is None:
        yield
        return

    def over(*_: object) -> None:
        raise Refused(message, TIMED_OUT)

    before = signal.signal(signal.SIGALRM, over)
    rest, _ = signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, rest)
        signal.signal(signal.SIGALRM, before)

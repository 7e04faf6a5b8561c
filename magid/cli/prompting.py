"""Reads a line from a terminal; Ctrl-C takes effect at any moment."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_LOOK_S = 0.1


def line(prompt: str) -> str:
    """Reads a line. As input(), raises EOFError and KeyboardInterrupt. Main thread only.

    Python's readline shows the prompt and only then starts to wait. Python does not handle a signal
    that arrives in between until the next key: a Ctrl-C just after a prompt would seem lost. A
    periodic second signal ends the wait, so that the first one is handled.
    """
    with _ticking():
        return input(prompt)


@contextmanager
def _ticking() -> Iterator[None]:
    """Sends the periodic signal while the block runs; an enclosing `within` is paused."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    rest, again = signal.setitimer(signal.ITIMER_REAL, _LOOK_S, _LOOK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, rest, again)
        signal.signal(signal.SIGALRM, before)

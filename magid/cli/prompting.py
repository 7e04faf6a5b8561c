"""A line from a person at a terminal, with Ctrl-C that is heard at every moment of it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_LOOK_S = 0.1


def line(prompt: str) -> str:
    """As input(): raises EOFError and KeyboardInterrupt. For the main thread only.

    Python's readline shows the prompt and only then begins to wait. A signal that comes between the
    two is noted and not acted on until the next key: a Ctrl-C right behind a fresh prompt seemed to
    be lost. Another signal, which comes again and again, ends the wait and lets it be acted on.
    """
    with _ticking():
        return input(prompt)


@contextmanager
def _ticking() -> Iterator[None]:
    """A deadline around it stands still meanwhile."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    rest, again = signal.setitimer(signal.ITIMER_REAL, _LOOK_S, _LOOK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, rest, again)
        signal.signal(signal.SIGALRM, before)

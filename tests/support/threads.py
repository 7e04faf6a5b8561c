"""A machine that allows no more threads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NO_MEMORY = 1 << 46  # bytes of a stack that no address space has room for


@contextmanager
def no_more_threads() -> Iterator[None]:
    """Within it, threads that are started raise RuntimeError. For the whole process."""
    before = threading.stack_size(_NO_MEMORY)
    try:
        yield
    finally:
        threading.stack_size(before)

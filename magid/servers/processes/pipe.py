"""Reads a pipe on the event loop."""

import asyncio
import os
from collections.abc import Callable

_MOST_BYTES = 65_536  # at once: what a pipe holds


class PipeReader:
    """Reads a pipe to its end, then closes it. The descriptor is its own once it is made.

    In the place of `loop.connect_read_pipe`: uvloop 0.23 closes the descriptor of a pipe twice. A
    file that a thread opens in between gets the number, and is closed under it (EBADF).
    """

    def __init__(
        self, descriptor: int, on_data: Callable[[bytes], None], on_end: Callable[[], None]
    ) -> None:
        self._fd, self._on_data, self._on_end = descriptor, on_data, on_end
        self._loop = asyncio.get_running_loop()
        os.set_blocking(descriptor, False)
        self.resume_reading()

    def pause_reading(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._read)

    def close(self) -> None:
        """Idempotent."""
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._on_end()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _MOST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._on_data(data)
        else:
            self.close()

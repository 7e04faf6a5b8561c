"""Reading many headers at once, in processes of their own.

A thread that parses megabytes holds the interpreter for milliseconds at a time, and every request
that is answered meanwhile waits for it more than once. Processes share nothing with the event
loop; a lower priority keeps them behind it where cores are few. Started for many new files only,
which is once in a model folder's life: the facts are cached.

    python -m magid.readers < PATHS        one JSON text per line in, one reading per line out
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from typing import Final

from magid.headercache import Reading, Unusable, packed, read_facts, unpacked

_MANY: Final = 16
"""From this many files on processes are worth their 60 ms to start: 16 headers take about 50 ms."""

_PROCESSES: Final = 2  # more gain nothing on one disk, and cost an event loop its core
_NICENESS: Final = 10


def read_all(paths: Sequence[str]) -> Generator[Reading, None, None]:
    """The reading of each path, in order. Blocks. Closing the iterator ends the processes."""
    if len(paths) < _MANY:
        yield from map(read_facts, paths)
        return
    with ExitStack() as held:
        readers = [
            held.enter_context(_Reader(paths[first::_PROCESSES])) for first in range(_PROCESSES)
        ]
        for index in range(len(paths)):
            yield readers[index % _PROCESSES].next_reading()


class _Reader:
    """One process with its share of the paths. They come from a file: no pipe can fill up."""

    def __init__(self, paths: Sequence[str]) -> None:
        with tempfile.TemporaryFile() as asked:
            asked.write("".join(f"{json.dumps(path)}\n" for path in paths).encode())
            asked.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "magid.readers"],
                stdin=asked,
                stdout=subprocess.PIPE,
                env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def next_reading(self) -> Reading:
        """A process that ends too soon leaves its files unread: they are tried again next time."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            return Unusable("cannot be read: its reader ended", is_lasting=False)
        is_lasting, content = json.loads(line)
        reading = unpacked(content)
        return Unusable(reading.reason, is_lasting) if isinstance(reading, Unusable) else reading


def main() -> None:
    """Answer each path on stdin with a line on stdout."""
    with suppress(OSError):
        os.nice(_NICENESS)
    with suppress(BrokenPipeError):
        for line in sys.stdin:
            reading = read_facts(json.loads(line))
            is_lasting = reading.is_lasting if isinstance(reading, Unusable) else True
            sys.stdout.write(json.dumps([is_lasting, packed(reading)]) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

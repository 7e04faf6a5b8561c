"""Runs a child that answers a question and ends, and returns its output."""

import os
from collections.abc import Mapping, Sequence

from magid.errors import ServerFailed
from magid.llama.arguments import child_environment
from magid.llama.short_runs import ShortRun
from magid.servers.processes.child import Child


class _Output:
    """The lines of a child, as far as the limit allows."""

    def __init__(self, max_bytes: int) -> None:
        self.lines: list[str] = []
        self._left = max_bytes

    @property
    def is_too_long(self) -> bool:
        return self._left < 0

    def add(self, line: str) -> None:
        self._left -= len(line) + 1
        if not self.is_too_long:
            self.lines.append(line)


async def output_of(
    argv: Sequence[str], run: ShortRun, environment: Mapping[str, str] | None = None
) -> str:
    """Returns what the child printed. Raises ServerFailed if it fails or does not end.

    Without an environment, it is that of a llama-server.
    """
    found = _Output(run.max_bytes)
    try:
        child = await Child.spawn(argv, environment or child_environment(os.environ), found.add)
    except OSError as error:
        raise ServerFailed(f"cannot {run.purpose}: {error.strerror}") from error
    try:
        ended = await child.wait(run.seconds)
    finally:
        await child.end(0)
    if not ended:
        raise run.late()
    if found.is_too_long:
        raise run.too_long()
    return "\n".join(found.lines)

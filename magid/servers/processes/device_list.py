"""Lists the devices that llama-server finds as a child process."""

import os

from magid.errors import ServerFailed
from magid.llama import device_list
from magid.llama.arguments import child_environment
from magid.llama.program import LlamaProgram
from magid.servers.processes.child import Child


class _Output:
    """The lines of a child, as far as the limit allows."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._bytes = 0

    @property
    def is_too_long(self) -> bool:
        return self._bytes > device_list.MAX_BYTES

    def add(self, line: str) -> None:
        self._bytes += len(line) + 1
        if not self.is_too_long:
            self.lines.append(line)


async def output(program: LlamaProgram) -> str:
    """Returns what llama-server printed. Raises ServerFailed if it fails or does not end."""
    device_list.check(program)
    found = _Output()
    argv = device_list.argv(str(program.path))
    try:
        child = await Child.spawn(argv, child_environment(os.environ), found.add)
    except OSError as error:
        raise ServerFailed(f"cannot list the GPUs: {error.strerror}") from error
    try:
        ended = await child.wait(device_list.LIST_S)
    finally:
        await child.end(0)
    if not ended:
        raise device_list.late()
    if found.is_too_long:
        raise device_list.too_long()
    return "\n".join(found.lines)

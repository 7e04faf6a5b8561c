"""Has a model's files read into memory while another server ends in its place.

By a process of its own, because a file system may not answer. magid may read models: it reads their
headers. A server whose unit starts finds the pages where they are.
"""

import asyncio
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from magid.standalone import SCRIPTS

log = logging.getLogger(__name__)

_KILLED_S: Final = 2.0  # one that waits for a file system ends when that answers
LEAST_BYTES: Final = 64 * 1024 * 1024  # what is smaller is read sooner than a process is there


async def read_ahead(files: Sequence[str]) -> None:
    """Returns when the kernel has been asked for all files. Never raises; ends with its caller."""
    script = (sys.executable, "-I", "-S", str(SCRIPTS / "read_ahead.py"))
    try:
        process = await asyncio.create_subprocess_exec(
            *script, *files, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
        )
    except OSError as error:
        log.warning("cannot read a model's files ahead: %s", error.strerror)
        return
    try:
        await process.wait()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(_KILLED_S):
                await process.wait()

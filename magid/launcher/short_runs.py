"""Runs a short unit and returns its output."""

import asyncio
import os
from collections.abc import Sequence

from magid.launcher.sandbox import Property
from magid.launcher.transient_units import Units
from magid.llama.short_runs import ShortRun


async def output_of(
    units: Units, name: str, properties: Sequence[Property], run: ShortRun
) -> bytes:
    """Returns what the unit printed; it is gone then. Calls for one name must not overlap.

    Raises ServerFailed if that takes too long or is too much, Busy, BusError.
    """
    reading, writing = os.pipe()
    try:
        await units.run_short(name, properties, writing)
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    try:
        async with asyncio.timeout(run.seconds):
            return await _read(reading, run)
    except TimeoutError:
        raise run.late() from None
    finally:
        await units.end_short(name)


async def _read(descriptor: int, run: ShortRun) -> bytes:
    """Returns what comes until the pipe is closed."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    try:
        found = b""
        while len(found) <= run.max_bytes:
            piece = await reader.read(run.max_bytes)
            if not piece:
                return found
            found += piece
        raise run.too_long()
    finally:
        transport.close()

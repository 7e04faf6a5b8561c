"""`magi-launcher`: serves its socket until it is idle or receives SIGTERM or SIGINT."""

import asyncio
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from magid.errors import CannotWrite, MagidError
from magid.launcher import protocol
from magid.launcher.keys import KEYS, KeyRing
from magid.launcher.policy import ConfigFile
from magid.launcher.server import USER, LauncherServer, log
from magid.launcher.transient_units import Units
from magid.systemd import notify
from magid.systemd.bus import Bus, BusError

IDLE_S: Final = 60.0
_DRAIN_S: Final = 20.0
_BUS_PAUSE_S: Final = 0.5


def main() -> int:
    """Returns the exit status: 0 when idle or stopped by a signal, 1 for a failure.

    A bad configuration is not a failure: each start request is refused until the file is fixed.
    """
    logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stderr)
    try:
        listening, left = notify.received(os.environ, os.getpid())
        return asyncio.run(serve(listening, left))
    except MagidError as error:
        log.error("%s", error.message)
        return 1


async def serve(
    listening: socket.socket,
    left: dict[str, socket.socket],
    *,
    keys: Path = KEYS,
    idle_s: float = IDLE_S,
) -> int:
    """Answers requests on this socket until a signal or idleness ends it; returns the exit status.

    `left` are the bus connections of earlier launchers. They are closed once this launcher holds
    the units that they held.

    When the bus goes away, requests wait for it to come back. If the launcher exited instead,
    systemd would start it again and again for the waiting connections, until it closes the socket.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    over = False
    while not (over or stop.is_set()):
        bus = Bus(passes_descriptors=True)
        try:
            await bus.open()
            ring = KeyRing(keys, USER)
            over = await _serve_over(bus, listening.dup(), left, ring, stop, idle_s)
        except BusError as error:
            log.warning("%s", error.message)
        finally:
            if (
                not stop.is_set()
            ):  # else the next launcher takes the bus, or it ends with the process
                await bus.close()
        if not over:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _BUS_PAUSE_S)
    return 0


async def _serve_over(
    bus: Bus,
    listening: socket.socket,
    left: dict[str, socket.socket],
    ring: KeyRing,
    stop: asyncio.Event,
    idle_s: float,
) -> bool:
    """Answers requests while this bus connection lasts. False: it ended."""
    try:
        ring.prepare()
    except CannotWrite as error:  # every start that needs a key reports it again
        log.error("%s", error.message)
    units = Units(bus)
    await units.open()
    notify.keep(bus.fileno())
    notify.release(left)
    ring.keep_only(units.held)
    units.when_gone(ring.remove)
    launcher = LauncherServer(units, ring, ConfigFile())
    # Not start_unix_server: from Python 3.13 on, its end removes the socket's file.
    server = await asyncio.start_server(
        launcher.answer, sock=listening, limit=protocol.MAX_LINE_BYTES
    )
    over = await _until_over(launcher, bus, stop, idle_s)
    server.close()
    with suppress(TimeoutError):
        await asyncio.wait_for(launcher.drained(), _DRAIN_S)
    launcher.close()
    await units.close()
    return over


async def _until_over(
    launcher: LauncherServer, bus: Bus, stop: asyncio.Event, idle_s: float
) -> bool:
    """True after a signal or when idle; False when the bus, and our references, went away."""
    ends = [asyncio.create_task(launcher.idle(idle_s)), asyncio.create_task(stop.wait())]
    lost = asyncio.create_task(bus.wait_closed())
    done, waiting = await asyncio.wait([*ends, lost], return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    return done != {lost}


if __name__ == "__main__":
    sys.exit(main())

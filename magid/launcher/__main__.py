"""`magi-launcher`: serves its socket until it is idle or told to stop."""

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
from magid.launcher.policy import read_config
from magid.launcher.server import USER, LauncherServer, log
from magid.launcher.transient_units import Units
from magid.systemd import notify
from magid.systemd.bus import Bus, BusError

IDLE_S: Final = 60.0
_DRAIN_S: Final = 20.0
_BUS_PAUSE_S: Final = 0.5


def main() -> int:
    """The exit status: 0 when idle or asked to end, 1 for a failure.

    A bad configuration is told to whoever asks for a server: it can be mended meanwhile.
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
    """Answer on this socket until asked to end, or idle. The exit status.

    `left` are the connections of earlier launchers; they are closed when theirs are ours.

    When the bus goes away, requests wait for it to come back: an exit would let systemd start the
    launcher again and again for connections that nobody takes, until it closes the socket.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    over = False
    while not (over or stop.is_set()):
        bus = Bus()
        try:
            await bus.open()
            ring = KeyRing(keys, USER)
            over = await _serve_over(bus, listening.dup(), left, ring, stop, idle_s)
        except BusError as error:
            log.warning("%s", error.message)
        finally:
            if not stop.is_set():  # else it is for the next launcher, or ends with the process
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
    """Answer for as long as this connection to the bus lasts. False: it is the bus that ended."""
    try:
        ring.prepare()
    except CannotWrite as error:  # those who want a server will hear of it again
        log.error("%s", error.message)
    units = Units(bus)
    await units.open()
    notify.keep(bus.fileno())
    notify.let_go(left)
    ring.keep_only(units.held)
    units.when_gone(ring.remove)
    launcher = LauncherServer(units, ring, read_config)
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
    """True when asked to end, or idle; False when the bus went away, and with it our references."""
    ends = [asyncio.create_task(launcher.idle(idle_s)), asyncio.create_task(stop.wait())]
    lost = asyncio.create_task(bus.wait_closed())
    done, waiting = await asyncio.wait([*ends, lost], return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    return done != {lost}


if __name__ == "__main__":
    sys.exit(main())

"""What a service tells its manager while it lives: that it lives, and that it reads things anew.

sd_notify(3); `notify` sends one message, and does nothing where nobody listens.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager

from magid.errors import MagidError
from magid.log.events import Event, about

log = logging.getLogger(__name__)

Notify = Callable[[str], object]


def watchdog_interval_s(env: Mapping[str, str], pid: int) -> float | None:
    """How often to say WATCHDOG=1: twice in the time allowed. None: nobody wants to hear it.

    Source: sd_watchdog_enabled(3).
    """
    usec = env.get("WATCHDOG_USEC", "")
    if env.get("WATCHDOG_PID", str(pid)) != str(pid) or not (usec.isascii() and usec.isdigit()):
        return None
    return int(usec) / 2_000_000 or None


async def keep_alive(notify: Notify, interval_s: float | None) -> None:
    """Say WATCHDOG=1 for as long as the event loop turns; a blocked one falls silent."""
    while interval_s is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)


async def reload_on(
    asked: asyncio.Event, notify: Notify, *work: Callable[[], Awaitable[object]]
) -> None:
    """Each time it is asked for: do the work, and tell when it begins and ends.

    What fails is logged, and the next is done all the same.

    systemd wants the time at which a reload began, to tell it from one that was asked for later.
    """
    while True:
        await asked.wait()
        asked.clear()
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        log.info(
            "reading models, profiles, tokens and the certificate anew; magid.yaml is read at a "
            "start only",
            extra=about(Event.RELOADING),
        )
        for each in work:
            try:
                await each()
            except MagidError as error:
                log.error("%s", error.message, extra=about(Event.RELOAD_FAILED, error=error.code))
            except Exception:
                log.exception("the reload ended by a mistake in magid")
        notify("READY=1")


@asynccontextmanager
async def beside(*work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Runs all of it meanwhile; it has ended when the block has."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

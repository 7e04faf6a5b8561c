"""Carries out requests about downloads: starts, ends and asks their units."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final
from weakref import WeakValueDictionary

from magid.config.settings import Config
from magid.errors import ServerFailed
from magid.launcher.download_request import DownloadRequest
from magid.launcher.download_units import authorize_download, download_unit
from magid.launcher.protocol import LauncherReply, output_reply
from magid.launcher.sandbox import Property
from magid.launcher.short_runs import output_of
from magid.launcher.transient_units import Units
from magid.library.transfer_command import QUESTIONS, STOP_S
from magid.llama.short_runs import ShortRun

log = logging.getLogger("magi-launcher")

_MARGIN_S: Final = 10.0


class _Noted(ShortRun, frozen=True):
    """A unit that notes something in the job's folder and ends."""

    def late(self) -> ServerFailed:
        return ServerFailed(
            f"cannot {self.purpose}: it takes over {self.seconds:g} s; {self.by_hand}"
        )


class DownloadUnits:
    """The units of downloads. Requests for one download are carried out one after another."""

    def __init__(self, units: Units) -> None:
        self._units = units
        # A lock lives while a request holds it or waits for it: there is no end of sources.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def carry_out(
        self, request: DownloadRequest, settings: Callable[[], Config]
    ) -> LauncherReply:
        """Returns when it is done; `run` when the unit is started. Raises MagidError."""
        name = download_unit(request)
        async with self._locks.setdefault(name, asyncio.Lock()):
            properties = await asyncio.to_thread(
                authorize_download, request, settings(), self._units.version
            )
            match request.action:
                case "run":
                    log.info("starting %s (%s)", name, request.source.text)
                    await self._units.run_lasting(name, properties)
                case question if asked := QUESTIONS.get(question):
                    return output_reply(await output_of(self._units, name, properties, asked))
                case _:
                    log.info("%s of %s (%s)", request.action, name, request.source.text)
                    await self._note(name, request, properties)
        return LauncherReply()

    async def _note(self, name: str, request: DownloadRequest, properties: list[Property]) -> None:
        """Ends the unit, and has one of the same name note what it is to be from now on."""
        await self._units.end_lasting(name, STOP_S + _MARGIN_S)
        purpose, by_hand = (
            f"{request.action} {request.source.text}",
            f"see `systemctl status {name}`",
        )
        run = _Noted(purpose, by_hand, STOP_S + _MARGIN_S)
        said = await output_of(self._units, name, properties, run)
        if b"cannot " in said:
            text = said.decode(errors="replace").strip()
            raise ServerFailed(f"cannot {purpose}: {text[:500]}")

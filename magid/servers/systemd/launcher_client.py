"""Client of the privileged launcher: one line over its socket, one line back."""

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from magid import errors
from magid.errors import LauncherUnreachable, MagidError, ServerFailed, TimedOut
from magid.launcher import protocol
from magid.launcher.protocol import LauncherReply, Request

SOCKET: Final = Path("/run/magi/launcher.sock")
KEYS: Final = Path("/run/magi-keys")
# The launcher answers 16 at once; some are left for a person at a terminal.
_AT_ONCE: Final = 12
_TRIES: Final = 3
_PAUSE_S: Final = 0.2  # a killed launcher is back within a second; its socket stays open


class LauncherClient:
    """Client of the launcher's socket. Any number of requests may be made in parallel."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def call(
        self,
        request: Request,
        timeout_s: float,
        is_done: Callable[[], bool] = lambda: False,
    ) -> Mapping[str, str | int]:
        """Sends the request; returns the reply's details when the launcher reports success.

        Raises the launcher's refusal, and TimedOut. If the launcher closes the connection without
        replying, the request is sent again unless `is_done` returns true by then: every request may
        be made twice. Raises LauncherUnreachable if it is not running or closes the connection
        again and again.
        """
        line = protocol.request_line(request)
        for _ in range(_TRIES):
            async with self._turn:
                answer = await self._exchange(line, timeout_s)
            if answer:
                return _check(protocol.parse_reply(answer))
            await asyncio.sleep(_PAUSE_S)
            if is_done():
                return {}
        raise LauncherUnreachable(
            "cannot get an answer of magi-launcher: it ended in the middle of the request; see "
            "`journalctl -u magi-launcher`"
        )

    async def _exchange(self, line: bytes, timeout_s: float) -> bytes:
        """Returns the reply's line; empty if the launcher ended before replying.

        Does not block the loop.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(
                self._path, limit=protocol.MAX_LINE_BYTES
            )
        except OSError as error:
            raise LauncherUnreachable(
                f"cannot reach magi-launcher at {self._path}: {os.strerror(error.errno or 0)}; "
                "run `systemctl start magi-launcher.socket`"
            ) from error
        try:
            async with asyncio.timeout(timeout_s):
                writer.write(line)
                await writer.drain()
                return await reader.readuntil(b"\n")
        except TimeoutError:
            raise TimedOut(
                f"cannot wait for magi-launcher any longer than {timeout_s:g} s; see "
                "`journalctl -u magi-launcher`"
            ) from None
        except (asyncio.IncompleteReadError, OSError):
            return b""
        finally:
            writer.close()


def _check(reply: LauncherReply) -> Mapping[str, str | int]:
    """Returns the details. Raises the error that the reply carries; ServerFailed for any other."""
    if reply.ok:
        return reply.details
    kind = getattr(errors, reply.error, ServerFailed)
    if not (isinstance(kind, type) and issubclass(kind, MagidError)):
        kind = ServerFailed
    raise kind(reply.message, **reply.details)

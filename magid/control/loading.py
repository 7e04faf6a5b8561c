"""How a server's start comes out, and whether what lies beside its model may be to blame."""

import asyncio
import logging
from dataclasses import replace
from typing import Final

from magid.llama.log_errors import is_out_of_memory
from magid.llama.spec import ServerSpec
from magid.log.events import Event, about
from magid.servers.backend import ObservedServer, ServerBackend, ServerState

log = logging.getLogger(__name__)

_HOLDING: Final = frozenset({ServerState.STARTING, ServerState.LOADING, ServerState.STOPPING})
"""A server in one of these states has not settled its memory use: the next start must wait."""


async def loaded(launcher: ServerBackend, port: int) -> ObservedServer | None:
    """Waits until the server has finished loading: ready, failed, stopped or in backoff."""
    done: asyncio.Future[ObservedServer] = asyncio.get_running_loop().create_future()

    def look(server: ObservedServer) -> None:
        if server.port == port and server.state not in _HOLDING and not done.done():
            done.set_result(server)

    unsubscribe = launcher.subscribe(look)
    try:
        server = launcher.observed().get(port)
        if server is None or server.state not in _HOLDING:
            return server
        return await done
    finally:
        unsubscribe()


def has_failed(server: ObservedServer) -> bool:
    """Whether it ended by itself before it was ready, for good or to be restarted."""
    return server.state in (ServerState.FAILED, ServerState.BACKOFF)


def lacked_memory(server: ObservedServer) -> bool:
    """Whether a device has refused the memory that it was placed for."""
    return has_failed(server) and is_out_of_memory(server.reason)


def without_extras(spec: ServerSpec) -> tuple[ServerSpec, str] | None:
    """Returns the same server without what was found beside its model, and what that is.

    That is the draft which `auto` has found, and adapters. None if there is neither. The hash stays
    the same: it counts as the wanted server.
    """
    extras = []
    plain = spec
    if spec.draft_type is not None and spec.draft == "auto":
        extras.append(f"its draft ({spec.draft_path or 'layers of its own file'})")
        plain = replace(plain, draft_type=None, draft_path=None, draft_stamp="")
    if spec.lora_paths:
        extras.append(f"its adapters ({', '.join(spec.lora_paths)})")
        plain = replace(plain, lora_paths=(), lora_stamp="", lora_bytes=0)
    return (plain, " and ".join(extras)) if extras else None


class LeftOut:
    """What servers were started without, because they did not start with it.

    `by_port` has the hash of the spec, which tells whether the server on the port is that one, and
    what it lacks, and why.
    """

    def __init__(self) -> None:
        self.by_port: dict[int, tuple[str, str]] = {}

    def note(self, spec: ServerSpec, extras: str, why: str) -> None:
        self.by_port[spec.port] = spec.hash, f"{extras}: {why}"
        log.warning(
            "%s starts without %s: %s", spec.model_id, extras, why,
            extra=about(Event.SERVER_STARTING, model=spec.model_id, port=spec.port),
        )  # fmt: skip

    def forget(self, port: int) -> None:
        """Forgets it before another start. Idempotent."""
        self.by_port.pop(port, None)

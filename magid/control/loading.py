"""How a server's start comes out, and whether its draft may be to blame."""

import asyncio
from dataclasses import replace
from typing import Final

from magid.llama.log_errors import is_out_of_memory
from magid.llama.spec import ServerSpec
from magid.servers.backend import ObservedServer, ServerBackend, ServerState

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


def without_found_draft(spec: ServerSpec) -> ServerSpec | None:
    """Returns the same server without the draft that `auto` has found; None if it has none.

    Its hash is the same: it counts as the wanted server.
    """
    if spec.draft_type is None or spec.draft != "auto":
        return None
    return replace(spec, draft_type=None, draft_path=None, draft_stamp="")

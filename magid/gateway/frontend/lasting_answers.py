"""Answers without a server that are not given at once: streams, removals, downloads."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from magid.errors import InvalidInput
from magid.gateway.frontend.model_events import ModelEvents
from magid.gateway.frontend.model_pull import ModelPull, pull_wanted
from magid.gateway.frontend.model_removal import model_to_remove
from magid.gateway.frontend.own_answers import OwnCall, OwnRequest, name_in
from magid.gateway.proxy.two_stage import ActiveRequest
from magid.gateway.routing.endpoints import UNLOAD, Style
from magid.library import source as sources
from magid.library.job import ACTIVE

_JSON = b"Content-Type: application/json\r\n"
_DONE = {Style.OPENAI: b'{"success":true}', Style.OLLAMA: b"{}"}


def begin(request: OwnRequest, call: OwnCall) -> ActiveRequest | None:
    """Begins what takes its time; returns None for what is answered at once.

    Raises InvalidInput, TooLarge, ModelNotFound and Conflict.
    """
    endpoint = request.endpoint
    if endpoint.has_events:
        return ModelEvents(call, request.only)
    if endpoint.removes:
        model_id = model_to_remove(call.dispatcher, request)
        removals = call.dispatcher.daemon.removals
        return WorkAnswer(call, removals.remove(model_id, forget=False), endpoint.style)
    if endpoint.downloads and endpoint.style is Style.OLLAMA:
        source, is_stream = pull_wanted(request)
        return ModelPull(call, source, is_stream=is_stream)
    if endpoint.downloads:
        source = sources.parse(name_in(request))
        return WorkAnswer(call, call.downloads.pull(source), endpoint.style)
    if endpoint.path == UNLOAD and (job_id := _under_way(request, call)):
        return WorkAnswer(call, call.downloads.pause(job_id), endpoint.style)
    return None


def _under_way(request: OwnRequest, call: OwnCall) -> str:
    """Returns the id of the download that the body names; "" if it names none that goes on."""
    try:
        job_id = sources.parse(name_in(request)).job_id
    except InvalidInput:
        return ""
    status = call.downloads.seen.get(job_id)
    return job_id if status is not None and status.state in ACTIVE else ""


class WorkAnswer:
    """One request, answered when its work is done. Implements `ActiveRequest`.

    A client that leaves ends nothing: half of the work would be of no use.
    """

    def __init__(self, call: OwnCall, work: Coroutine[Any, Any, object], style: Style) -> None:
        self._call, self._style = call, style
        self._has_left = False
        self._task = asyncio.get_running_loop().create_task(work)
        self._task.add_done_callback(self._end)

    def _end(self, task: "asyncio.Task[object]") -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._call.on_change()  # also of a client that has left
        if self._has_left:
            return
        if error is None:
            self._call.writer.respond(200, _JSON, _DONE[self._style])
        else:
            self._call.on_error(error)

    def cancel(self) -> None:
        """Idempotent."""
        self._has_left = True

    def pause(self, *, paused: bool) -> None:
        """Its answer is short."""

"""Removal of a model's files, asked for over llama.cpp's or Ollama's API."""

import asyncio
from collections.abc import Callable

from magid.errors import Conflict, MagidError
from magid.gateway.dispatcher import Dispatcher
from magid.gateway.frontend.own_answers import OwnRequest, fields_of, no_name
from magid.gateway.frontend.response_writer import ResponseWriter
from magid.gateway.routing.endpoints import Style
from magid.gateway.routing.request import parse_query
from magid.gateway.routing.resolver import LATEST

_JSON = b"Content-Type: application/json\r\n"
_ANSWERS = {Style.OPENAI: b'{"success":true}', Style.OLLAMA: b"{}"}


def model_to_remove(dispatcher: Dispatcher, request: OwnRequest, query: str) -> str:
    """Returns the id of the model that the query or the body names.

    Raises InvalidInput, ModelNotFound; Conflict for another name of a model: an alias is a line of
    a profile, and a client that deletes it means no file.
    """
    name: object = parse_query(query)[1] if "model=" in query else None
    if not name and request.body:
        fields = fields_of(request)
        name = fields.get("model") or fields.get("name")  # `name` is the older one
    if not isinstance(name, str) or not name:
        raise no_name()
    asked = name.removesuffix(LATEST)
    if asked in dispatcher.fleet.aliases:
        raise Conflict(
            f"cannot remove {asked[:200]!r}: it is another name of a model, which the active "
            "profile has; remove the model by its own id"
        )
    return dispatcher.daemon.resolve_id(asked)


class ModelRemoval:
    """One request, answered when the files are gone. Implements `ActiveRequest`.

    A client that leaves ends nothing: half a removal would be of no use.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        writer: ResponseWriter,
        model_id: str,
        style: Style,
        on_done: Callable[[], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._writer, self._style = writer, style
        self._on_done, self._on_error = on_done, on_error
        self._has_left = False
        work = dispatcher.daemon.removals.remove(model_id, forget=False)
        self._task = asyncio.get_running_loop().create_task(work)
        self._task.add_done_callback(self._end)

    def _end(self, task: "asyncio.Task[object]") -> None:
        error = None if task.cancelled() else task.exception()
        if self._has_left or task.cancelled():
            return
        if error is None:
            self._on_done()
            self._writer.respond(200, _JSON, _ANSWERS[self._style])
        elif isinstance(error, MagidError):
            self._writer.fails(error)
        elif isinstance(error, Exception):
            self._on_error(error)

    def cancel(self) -> None:
        """Idempotent."""
        self._has_left = True

    def pause(self, *, paused: bool) -> None:
        """Its answer is short."""

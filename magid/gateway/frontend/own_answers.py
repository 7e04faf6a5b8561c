"""Answers that the gateway gives without a server: lists, and starts and stops of models."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import cast
from urllib.parse import unquote

from msgspec import Struct

from magid.errors import InvalidInput, ModelNotFound, NotSupported
from magid.gateway.dispatcher import Dispatcher
from magid.gateway.frontend import model_downloads
from magid.gateway.frontend.request_reader import BOM, small_too_large
from magid.gateway.frontend.response_writer import ResponseWriter
from magid.gateway.ollama import models as ollama
from magid.gateway.routing import fleet, resolver
from magid.gateway.routing.endpoints import MODELS, Endpoint
from magid.gateway.routing.fleet import Fleet
from magid.gateway.routing.outline import WHOLE_BYTES
from magid.http import content_coding
from magid.http.json_text import from_json, to_json
from magid.library.downloads.owner import Downloads


class OwnRequest(Struct, frozen=True):
    """A request that magid answers by itself. `only`: the models that its caller may use."""

    endpoint: Endpoint
    path: str
    body: bytes | bytearray
    only: tuple[str, ...] | None
    content_encoding: str = ""
    query: str = ""


class OwnCall(Struct, frozen=True):
    """What answers that take their time work with.

    `may_go_on`: whether the caller's token still counts; `on_change` logs who has changed what.
    """

    dispatcher: Dispatcher
    downloads: Downloads
    writer: ResponseWriter
    may_go_on: Callable[[], bool]
    on_change: Callable[[], None]
    on_error: Callable[[BaseException], None]


def answer(call: OwnCall, request: OwnRequest) -> bytes:
    """Returns the answer as JSON. Raises InvalidInput, TooLarge, and as the daemon does."""
    if request.endpoint.path == MODELS:
        return _router_models(call, request)
    return _ANSWERS[request.endpoint.path](call.dispatcher, request)


def visible(dispatcher: Dispatcher, only: tuple[str, ...] | None) -> Fleet:
    """Returns the part of the present fleet that such a caller may see."""
    return dispatcher.fleet if only is None else fleet.limited(dispatcher.fleet, only)


def _models(dispatcher: Dispatcher, request: OwnRequest) -> bytes:
    return dispatcher.models_json(request.only)


def _router_models(call: OwnCall, request: OwnRequest) -> bytes:
    """The same, and what is being downloaded, for callers who may use all models."""
    under_way = model_downloads.under_way(call.downloads.seen.values())
    if request.only is not None or not under_way:
        return _models(call.dispatcher, request)
    models = call.dispatcher.models(None)
    endpoint = call.dispatcher.daemon.config.downloads.endpoint
    coming = model_downloads.entries(under_way, endpoint, models)
    return to_json({"object": "list", "data": [*models, *coming]})


def _model(dispatcher: Dispatcher, request: OwnRequest) -> bytes:
    name = unquote(request.path.removeprefix(request.endpoint.prefix), errors="replace")
    for model in dispatcher.models(request.only):
        if model["id"] == name:
            return to_json(model)
    raise ModelNotFound(
        f"cannot find model {name[:200]!r}; GET /v1/models lists the names that can be used",
        modelId=name[:200],
    )


# -- llama.cpp's router: POST /models/load and /models/unload ----------------------------------

_SUCCESS = b'{"success":true}'


def _load(dispatcher: Dispatcher, request: OwnRequest) -> bytes:
    dispatcher.daemon.start(_named(dispatcher, request))
    return _SUCCESS


def _unload(dispatcher: Dispatcher, request: OwnRequest) -> bytes:
    dispatcher.daemon.stop(_named(dispatcher, request))
    return _SUCCESS


def stop(dispatcher: Dispatcher, name: str) -> None:
    """Begins to stop the model of this name. Raises as `_model_id` does."""
    dispatcher.daemon.stop(_model_id(dispatcher, name))


# -- Ollama's API --------------------------------------------------------------------------------


def _version(dispatcher: Dispatcher, request: OwnRequest) -> bytes:
    return to_json({"version": ollama.API_VERSION})


def _tags(dispatcher: Dispatcher, request: OwnRequest) -> bytes:
    return to_json(ollama.tags(visible(dispatcher, request.only)))


def _show(dispatcher: Dispatcher, request: OwnRequest) -> bytes:
    fields = fields_of(request)
    name = fields.get("model") or fields.get("name")  # `name` is the older one
    if not isinstance(name, str):
        raise no_name()
    return to_json(ollama.show(name, visible(dispatcher, request.only)))


def _running(dispatcher: Dispatcher, request: OwnRequest) -> bytes:
    now = visible(dispatcher, request.only)
    return to_json(ollama.running(now, _idle_until(dispatcher, now)))


def _idle_until(dispatcher: Dispatcher, now: Fleet) -> dict[str, datetime]:
    """Returns when each running on-demand model will stop if it stays idle."""
    ends: dict[str, datetime] = {}
    moment, clock = datetime.now(UTC), time.monotonic()
    for server in dispatcher.servers():
        offer = now.offers.get(server.backend.model_id)
        limit = offer.model.settings.idle_stop_seconds if offer else None
        if offer is not None and offer.model.is_on_demand and limit:
            end = moment + timedelta(seconds=server.last_used + limit - clock)
            ends[offer.model_id] = max(end, ends.get(offer.model_id, end))
    return ends


def _not_here(dispatcher: Dispatcher, request: OwnRequest) -> bytes:
    verb = request.path.rpartition("/")[2]
    raise NotSupported(
        f"cannot {verb} models over Ollama's API: magid's models are GGUF files in its model "
        "folders; POST /api/models/rescan reads them again"
    )


# -- what a body says --------------------------------------------------------------------------


def no_name() -> InvalidInput:
    """Returns the error of a request that names no model."""
    return InvalidInput(
        'cannot tell which model: send {"model": NAME}; GET /v1/models lists the names',
        field="model",
    )


def _named(dispatcher: Dispatcher, request: OwnRequest) -> str:
    """The id of the model that the body names. Raises InvalidInput, ModelNotFound, TooLarge."""
    return _model_id(dispatcher, name_in(request))


def name_in(request: OwnRequest) -> str:
    """Returns what the body has as `model`. Raises InvalidInput, TooLarge."""
    name = fields_of(request).get("model")
    if not isinstance(name, str) or not name:
        raise no_name()
    return name


def _model_id(dispatcher: Dispatcher, name: str) -> str:
    """Raises InvalidInput for a name that leads to several models, ModelNotFound."""
    now = dispatcher.fleet
    try:
        model_id = resolver.by_name(name, now)
    except ModelNotFound:  # it is disabled, or its file is gone
        return dispatcher.daemon.resolve_id(name.removesuffix(resolver.LATEST))
    if model_id not in now.offers:
        raise InvalidInput(
            f"cannot load or unload {name[:200]!r}: it is no model, but leads to {model_id}; "
            "GET /models lists the models",
            field="model",
        )
    return model_id


def fields_of(request: OwnRequest) -> dict[str, object]:
    """The body's JSON object. Raises InvalidInput, TooLarge, UnsupportedMediaType."""
    try:
        fields = from_json(_plain(request).removeprefix(BOM))
    except ValueError as error:
        raise InvalidInput(f"cannot read the request body: it is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidInput("cannot read the request body: it is not a JSON object")
    return fields


def _plain(request: OwnRequest) -> bytes | bytearray:
    """The body without its coding, at once: neither form may be long."""
    limit = WHOLE_BYTES
    too_large = small_too_large(limit)
    if len(request.body) > limit:
        raise too_large
    coding = content_coding.coding_of(request.content_encoding)
    if not coding:
        return request.body
    steps = content_coding.decoded(request.body, coding, limit, too_large)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast(bytearray, end.value)


_ANSWERS: dict[str, Callable[[Dispatcher, OwnRequest], bytes]] = {
    "/v1/models": _models,
    "/v1/models/{id}": _model,
    "/models/load": _load,
    "/models/unload": _unload,
    "/api/version": _version,
    "/api/tags": _tags,
    "/api/show": _show,
    "/api/ps": _running,
    **dict.fromkeys(("/api/create", "/api/copy", "/api/push"), _not_here),
}

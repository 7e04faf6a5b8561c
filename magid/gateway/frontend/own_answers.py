"""The gateway's answers that no server is asked for: lists, and changes of what runs."""

from collections.abc import Callable
from urllib.parse import unquote

from msgspec import Struct
from pydantic_core import from_json, to_json

from magid.errors import InvalidInput, ModelNotFound
from magid.gateway.dispatcher import Dispatcher
from magid.gateway.routing import fleet, resolver
from magid.gateway.routing.endpoints import Endpoint
from magid.gateway.routing.fleet import Fleet
from magid.gateway.routing.outline import WHOLE_BYTES
from magid.http import request_rules


class OwnRequest(Struct, frozen=True):
    """A request that magid answers by itself. `only`: the models that its caller may use."""

    endpoint: Endpoint
    path: str
    body: bytes | bytearray
    only: tuple[str, ...] | None


def answer(dispatcher: Dispatcher, request: OwnRequest) -> bytes:
    """Returns the answer as JSON. Raises InvalidInput, TooLarge, and as the daemon does."""
    return _ANSWERS[request.endpoint.path](dispatcher, request)


def visible(dispatcher: Dispatcher, only: tuple[str, ...] | None) -> Fleet:
    """Returns the part of the present fleet that such a caller may see."""
    return dispatcher.fleet if only is None else fleet.limited(dispatcher.fleet, only)


def _models(dispatcher: Dispatcher, request: OwnRequest) -> bytes:
    return dispatcher.models_json(request.only)


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


def _named(dispatcher: Dispatcher, request: OwnRequest) -> str:
    """The id of the model that the body names. Raises InvalidInput, ModelNotFound, TooLarge."""
    name = fields_of(request.body).get("model")
    if not isinstance(name, str) or not name:
        raise InvalidInput(
            'cannot tell which model: send {"model": NAME}; GET /models lists the names',
            field="model",
        )
    now = dispatcher.fleet
    try:
        model_id = resolver.by_name(name, now)
    except ModelNotFound:  # it is disabled, or its file is gone
        return dispatcher.daemon.resolve_id(name)
    if model_id not in now.offers:
        raise InvalidInput(
            f"cannot load or unload {name[:200]!r}: it is no model, but leads to {model_id}; "
            "GET /models lists the models",
            field="model",
        )
    return model_id


def fields_of(body: bytes | bytearray) -> dict[str, object]:
    """The body's JSON object. Raises InvalidInput, TooLarge."""
    if len(body) > WHOLE_BYTES:
        raise request_rules.body_too_large(WHOLE_BYTES, "for what is not a request to a model")
    try:
        fields = from_json(body)
    except ValueError as error:
        raise InvalidInput(f"cannot read the request body: it is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidInput("cannot read the request body: it is not a JSON object")
    return fields


_ANSWERS: dict[str, Callable[[Dispatcher, OwnRequest], bytes]] = {
    "/v1/models": _models,
    "/v1/models/{id}": _model,
    "/models": _models,
    "/models/load": _load,
    "/models/unload": _unload,
}

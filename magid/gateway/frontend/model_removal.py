"""Which model a client means that asks for a removal over llama.cpp's or Ollama's API."""

from magid.errors import Conflict
from magid.gateway.dispatcher import Dispatcher
from magid.gateway.frontend.own_answers import OwnRequest, fields_of, no_name
from magid.gateway.routing import resolver
from magid.gateway.routing.request import parse_query
from magid.gateway.routing.resolver import LATEST


def model_to_remove(dispatcher: Dispatcher, request: OwnRequest) -> str:
    """Returns the id of the model that the query or the body names.

    Raises InvalidInput, ModelNotFound; Conflict for another name of a model: an alias is a line of
    a profile, and a client that deletes it means no file.
    """
    name: object = parse_query(request.query)[1] if "model=" in request.query else None
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
    return resolver.of_hub(name, dispatcher.fleet) or dispatcher.daemon.resolve_id(asked)

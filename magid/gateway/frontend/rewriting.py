"""A request's fields as a server takes them: translated, with its variant, in accepted forms."""

from collections.abc import Mapping
from typing import Any

from magid.gateway.ollama import requests as ollama
from magid.gateway.routing import compatibility, nulls, variants
from magid.gateway.routing.endpoints import Endpoint, Style
from magid.gateway.routing.fleet import ChosenVariant


def rewritten(
    endpoint: Endpoint, fields: Mapping[str, Any], chosen: ChosenVariant | None
) -> tuple[Endpoint, dict[str, Any]]:
    """The endpoint and the fields that go on. For a request that has to be written again.

    Raises InvalidInput.
    """
    made = dict(fields)
    if endpoint.style is Style.OLLAMA:
        endpoint, made = ollama.translated(endpoint, made)
    if chosen is not None:
        made = variants.applied(chosen, endpoint, made)
    nulls.dropped(endpoint, made)
    compatibility.adapt(endpoint, made)
    return endpoint, made

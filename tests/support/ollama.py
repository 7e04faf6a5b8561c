"""Requests of Ollama's API, translated, for the tests of both directions."""

from typing import Any

from magid.gateway.ollama import requests
from magid.gateway.routing.endpoints import Endpoint, find

USER = {"role": "user", "content": "Hello"}


def translated(path: str, **fields: Any) -> tuple[Endpoint, dict[str, Any]]:
    endpoint = find("POST", path)
    assert endpoint is not None
    found, body = requests.translated(endpoint, {"model": "a", **fields})
    assert found.path == path
    return found, body

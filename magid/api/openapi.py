"""The OpenAPI 3.1 document, generated from the route table."""

import asyncio
import re
from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

from magid import __version__
from magid.api.reply import Call, Reply, cached, etag_of
from magid.api.routes import Access, Query, Route
from magid.api.schemas import models
from magid.gateway.routing.endpoints import ENDPOINTS, Endpoint, Style
from magid.http.json_text import to_json
from magid.http.status import STATUS, status_of

_REF = "#/components/schemas/{model}"
_NAMES = {bool: "boolean", int: "integer", float: "number", str: "string"}
# Any route can answer these: they are checked before the handler runs.
_ALWAYS = (400, 401, 403, 404, 405, 408, 413, 415, 421, 500, 503)


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """Returns a valid OpenAPI 3.1 document of these routes."""
    table = list(routes)
    shapes, components = _shapes(table)
    paths: dict[str, Any] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, shapes)
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _gateway(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "magid",
            "version": __version__,
            "summary": "GGUF models as services on one GPU server",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SCHEMES},
        "security": _ANY_SCHEME,
    }


def _shapes(routes: list[Route]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Returns type -> schema (a reference if the schema has a name), and the named schemas."""
    from pydantic import TypeAdapter  # late, as `schemas.bodies` is

    from magid.api.schemas import bodies

    kinds: set[tuple[Any, Literal["validation", "serialization"]]]
    kinds = {(bodies.MODELS[route.body], "validation") for route in routes if route.body}
    kinds |= {(route.reply, "serialization") for route in routes if route.reply}
    kinds.add((models.ErrorReply, "serialization"))
    ordered = sorted(kinds, key=repr)
    found, definitions = TypeAdapter.json_schemas(
        [(kind, mode, TypeAdapter(kind)) for kind, mode in ordered], ref_template=_REF
    )
    shapes = {kind: _named(schema) for (kind, _mode), schema in found.items()}
    shapes |= {name: shapes[model] for name, model in bodies.MODELS.items() if model in shapes}
    components = definitions.get("$defs", {})
    return shapes, {
        _COMPONENTS.get(name, name): _named(schema) for name, schema in components.items()
    }


# Component names that clients were generated from, where those of the classes are others.
_COMPONENTS = {
    "LoadBalancing": "LoadBalancing-Output",
    "LoadBalancingRules": "LoadBalancing-Input",
    "TierConfig": "TierConfig-Output",
    "TierRange": "TierConfig-Input",
    "TwoStage": "TwoStage-Output",
    "TwoStageRules": "TwoStage-Input",
}


def _named(schema: Any) -> Any:
    """Returns a schema whose references have the document's names of components."""
    if isinstance(schema, list):
        return [_named(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    named = {key: _named(value) for key, value in schema.items()}
    if isinstance(reference := named.get("$ref"), str):
        path, _, name = reference.rpartition("/")
        named["$ref"] = f"{path}/{_COMPONENTS.get(name, name)}"
    return named


def _operation(route: Route, shapes: dict[Any, Any]) -> dict[str, Any]:
    parameters = [_path_parameter(name) for name in re.findall(r"{(\w+)}", route.path)]
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [str(route.access)],
        "parameters": parameters + [_query_parameter(query) for query in route.query],
        "responses": _responses(route, shapes),
    }
    if route.access is Access.PUBLIC:
        operation["security"] = []
    if route.body:
        content = {"application/json": {"schema": shapes[route.body]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


# The empty alternative: while no token exists, no credential is required.
_ANY_SCHEME: list[dict[str, list[str]]] = [{"bearer": []}, {"apiKey": []}, {"session": []}, {}]
_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of magid's; the tag of an operation tells what it has to be for: "
        "read: scope read; change: admin; infer: infer. admin has all of them in it",
    },
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "magi-session",
        "description": "The page's, of POST /api/session; requests that change something need the "
        "header X-Magi-Page: 1 too",
    },
}


def _operation_id(route: Route) -> str:
    words = re.findall(r"\w+", route.path.replace("{", "by_").replace("-", "_"))
    return "_".join([route.method.lower(), *(w for w in words if w not in ("api",))])


# -- the gateway: llama-server's own schemas, described in outline only ----------------------------

_OPEN: dict[str, Any] = {"type": "object", "additionalProperties": True}
_LIST: dict[str, Any] = {"type": "array", "items": _OPEN}
_MODEL = {
    "type": "string",
    "default": "auto",
    "description": "A model id, an alias, a tier (fast, balanced, powerful), or auto",
}
_SHAPES = {
    Style.OPENAI: {"type": "object", "required": ["error"], "properties": {"error": _OPEN}},
    Style.ANTHROPIC: {
        "type": "object",
        "required": ["type", "error"],
        "properties": {"type": {"const": "error"}, "error": _OPEN},
    },
    Style.OLLAMA: {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string"}},
    },
}


def _gateway(endpoint: Endpoint) -> dict[str, Any]:
    words = re.findall(r"\w+", endpoint.path.replace("{", "by_").replace("-", "_"))
    good: dict[str, Any]
    good = {"application/json": {"schema": _LIST if endpoint.path == "/slots" else _OPEN}}
    stream = {"text/event-stream": {"schema": {"type": "string"}}}
    if (endpoint.generates or endpoint.downloads) and endpoint.style is Style.OLLAMA:
        good["application/x-ndjson"] = {"schema": {"type": "string"}}
    elif endpoint.generates:
        good |= stream
    elif endpoint.has_events:
        good = stream
    error = {"application/json": {"schema": _SHAPES[endpoint.style]}}
    operation: dict[str, Any] = {
        "operationId": "_".join([endpoint.method.lower(), *words]),
        "summary": endpoint.summary,
        "tags": ["change" if endpoint.needs_admin else "infer"],
        "parameters": _gateway_parameters(endpoint),
        "responses": {
            "200": {"description": "The answer", "content": good},
            "default": {"description": "An error", "content": error},
        },
    }
    if endpoint.is_absent:
        operation["responses"] = {"501": {"description": "NotSupported", "content": error}}
    if endpoint.method == "POST":
        # Who sends null to a server's endpoint leaves the choice to magid.
        model = {**_MODEL, "type": ["string", "null"]} if endpoint.kinds else _MODEL
        schema = {**_OPEN, "properties": {"model": model}}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _gateway_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    if endpoint.asks_by_query:
        return [{"name": "model", "in": "query", "schema": _MODEL}]
    return [_path_parameter("id")] if "{" in endpoint.path else []


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameter(query: Query) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": _NAMES[query.kind]}
    if query.low is not None:
        schema |= {"minimum": query.low, "maximum": query.high}
    return {"name": query.name, "in": "query", "description": query.description, "schema": schema}


def _responses(route: Route, shapes: dict[Any, Any]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status in (route.status, *route.more):
        answers[str(status)] = _answer(route, status, shapes)
    error = {"application/json": {"schema": shapes[models.ErrorReply]}}
    known = {status_of(kind("")) for kind in route.errors} | set(_ALWAYS)
    for status in sorted(known - {route.status, *route.more}):
        answers[str(status)] = {"description": _describe(route, status), "content": error}
    return answers


def _answer(route: Route, status: int, shapes: dict[Any, Any]) -> dict[str, Any]:
    if status == 304:
        return {"description": "Unchanged since the ETag in If-None-Match"}
    if route.reply is None:
        stream = {"text/event-stream": {"schema": {"type": "string"}}}
        return {"description": route.summary, "content": stream}
    content: dict[str, Any] = {kind: {"schema": shapes[route.reply]} for kind in route.media}
    if any(q.name == "follow" for q in route.query):
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {"description": route.summary, "content": content}


def _describe(route: Route, status: int) -> str:
    own = {kind for kind in route.errors if status_of(kind("")) == status}
    general = {kind for kind, code in STATUS.items() if code == status}
    return ", ".join(sorted(kind.__name__ for kind in own or general)) or "InternalError"


def make_route(routes: Iterable[Route]) -> Route:
    """Returns the route that serves the document; the document contains that route too.

    The document is generated at its first request, which takes half as long as a daemon's start.
    """

    @cache
    def made() -> tuple[bytes, str]:
        body = to_json(document([*routes, own]))
        return body, etag_of(body)

    async def get_openapi(_ctx: Any, call: Call) -> Reply:
        """This document."""
        return cached(*await asyncio.to_thread(made), call)

    own = Route(
        "GET", "/openapi.json", get_openapi, dict[str, Any], Access.PUBLIC, more=(304,),
    )  # fmt: skip
    return own

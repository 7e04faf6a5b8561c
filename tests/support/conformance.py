"""Checks every answer of the daemon against its own OpenAPI document."""

import re
from typing import Any

import httpx
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

# What is answered before it is looked which operation is meant.
REFUSALS = (400, 403, 404, 405, 408, 413, 415, 421)


class Conformance:
    """An httpx response hook: the status is documented, the body fits its schema."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._paths = [
            (re.compile(re.sub(r"{\w+}", "[^/]+", path)), operations)
            for path, operations in sorted(
                document["paths"].items(), key=lambda item: item[0].count("{")
            )
        ]
        resource = Resource.from_contents(document, default_specification=DRAFT202012)
        self._registry = Registry().with_resource("urn:openapi", resource)
        self._error = {"$ref": "urn:openapi#/components/schemas/ErrorReply"}

    def __call__(self, response: httpx.Response) -> None:
        assert response.headers["x-request-id"]
        method = response.request.method.lower().replace("head", "get")
        operation = self._operation(response.request.url.raw_path.decode(), method)
        if operation is None:
            self._check_undocumented(response)
            return
        answers = operation["responses"]
        answer = answers.get(str(response.status_code)) or answers.get("default")
        assert answer, f"{response.request.url}: {response.status_code} is not documented"
        content = answer.get("content", {})
        kind = response.headers.get("content-type", "").partition(";")[0]
        if kind == "text/event-stream" or response.request.method == "HEAD":
            return
        if not content:
            assert not response.read()
            return
        assert kind in content, f"{kind} is not documented"
        self._check(_absolute(content[kind]["schema"]), response)

    def _operation(self, path: str, method: str) -> Any:
        for pattern, operations in self._paths:
            if pattern.fullmatch(path.partition("?")[0]):
                return operations.get(method)
        return None

    def _check_undocumented(self, response: httpx.Response) -> None:
        """No such path or method: an error, but for a browser's question (OPTIONS)."""
        if response.request.method == "OPTIONS" and response.status_code == 204:
            return
        assert response.status_code in REFUSALS, response.status_code
        if response.request.method != "HEAD":
            self._check(self._error, response)

    def _check(self, schema: dict[str, Any], response: httpx.Response) -> None:
        response.read()
        is_json = response.headers["content-type"].startswith("application/json")
        answer = response.json() if is_json else response.text
        Draft202012Validator(schema, registry=self._registry).validate(answer)


def _absolute(schema: Any) -> Any:
    """References into the document, made absolute for a schema that stands alone."""
    if isinstance(schema, dict):
        return {
            key: f"urn:openapi{value}" if key == "$ref" else _absolute(value)
            for key, value in schema.items()
        }
    return [_absolute(item) for item in schema] if isinstance(schema, list) else schema

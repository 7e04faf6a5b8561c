"""What clients send and llama-server 0.7.0 refuses or ignores, in a form that it takes. Pure."""

from collections.abc import Iterator
from typing import Any

from magid.errors import InvalidInput
from magid.gateway.routing.endpoints import Endpoint, Style

RESPONSES = "/v1/responses"


def adapt(endpoint: Endpoint, fields: dict[str, Any]) -> bool:
    """Changes the fields of a request where needed; returns whether it did. Raises InvalidInput."""
    choice = fields.get("tool_choice")
    changed = isinstance(choice, dict) and _narrow_tools(endpoint, fields, choice)
    return (endpoint.upstream == RESPONSES and _complete_input(fields)) or changed


def _narrow_tools(endpoint: Endpoint, fields: dict[str, Any], choice: dict[str, Any]) -> bool:
    """Leaves the one tool that has to be called, and has a tool called.

    llama-server ignores the name, and in OpenAI's form the whole choice.
    """
    name = _tool_name(choice)
    if name is None:
        return False
    tools = fields.get("tools")
    chosen = [tool for tool in tools if _tool_name(tool) == name] if isinstance(tools, list) else []
    if not chosen:
        raise InvalidInput(
            f"cannot answer: tool_choice is for {name[:80]!r}, which is not in tools",
            field="tool_choice",
        )
    fields["tools"] = chosen
    if endpoint.style is Style.ANTHROPIC:
        others = {key: value for key, value in choice.items() if key != "name"}
        fields["tool_choice"] = {**others, "type": "any"}
    else:
        fields["tool_choice"] = "required"
    return True


def _tool_name(value: object) -> str | None:
    """Of a tool, or of a choice for one, in any dialect; None for another choice."""
    match value:
        case {"function": {"name": str(name)}} | {"name": str(name)}:
            return name
        case _:
            return None


def _complete_input(fields: dict[str, Any]) -> bool:
    """Completes what a client sends back of an earlier turn: messages and reasoning.

    A message of the assistant has to say that it is one. Reasoning has to have its text, which
    OpenAI keeps to itself: its summary takes the place, and without one there is nothing to say.
    """
    items = fields.get("input")
    if not isinstance(items, list):
        return False
    changed, kept = False, []
    for item in items:
        if isinstance(item, dict):
            kind = item.get("type")
            if kind is None and item.get("role") == "assistant" and "content" in item:
                item["type"], changed = "message", True
            elif kind == "reasoning" and not item.get("content"):
                changed = True
                item["content"] = [{"type": "reasoning_text", "text": t} for t in _summary(item)]
                if not item["content"]:
                    continue
        kept.append(item)
    if changed:
        fields["input"] = kept
    return changed


def _summary(item: dict[str, Any]) -> Iterator[str]:
    parts = item.get("summary")
    for part in parts if isinstance(parts, list) else ():
        text = part.get("text") if isinstance(part, dict) else None
        if isinstance(text, str) and text:
            yield text

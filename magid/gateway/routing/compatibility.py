"""What clients send and llama-server 0.7.0 refuses or ignores, in a form that it takes. Pure."""

from collections.abc import Iterator
from typing import Any

from magid.errors import InvalidInput
from magid.gateway.routing.endpoints import Endpoint, Style

RESPONSES = "/v1/responses"


def adapt(endpoint: Endpoint, fields: dict[str, Any]) -> bool:
    """Changes the fields of a request where needed; returns whether it did. Raises InvalidInput."""
    choice = fields.get("tool_choice")
    changed = isinstance(choice, dict) and _limit_tools(endpoint, fields, choice)
    return (endpoint.upstream == RESPONSES and _complete_input(fields)) or changed


def _limit_tools(endpoint: Endpoint, fields: dict[str, Any], choice: dict[str, Any]) -> bool:
    """Leaves the tools that may be called. llama-server ignores which they are.

    Of Anthropic's choices it does not know `none`, and of OpenAI's no object.
    """
    is_anthropic = endpoint.style is Style.ANTHROPIC
    if is_anthropic and choice.get("type") == "none":
        del fields["tool_choice"]
        fields.pop("tools", None)
        return True
    if not is_anthropic and choice.get("type") == "allowed_tools":
        _allow_tools(fields, choice)
        return True
    name = _tool_name(choice)
    if name is None:
        return False
    fields["tools"] = _tools_named(fields, {name})
    if is_anthropic:
        others = {key: value for key, value in choice.items() if key != "name"}
        fields["tool_choice"] = {**others, "type": "any"}
    else:
        fields["tool_choice"] = "required"
    return True


def _allow_tools(fields: dict[str, Any], choice: dict[str, Any]) -> None:
    """Leaves the tools of a choice of type `allowed_tools`, which chats nest and Responses do not.

    Raises InvalidInput.
    """
    allowed = choice.get("allowed_tools", choice)
    tools = allowed.get("tools") if isinstance(allowed, dict) else None
    if not isinstance(tools, list) or allowed.get("mode") not in ("auto", "required"):
        raise InvalidInput(
            "cannot answer: tool_choice of type allowed_tools needs a list `tools` and a `mode`, "
            '"auto" or "required"',
            field="tool_choice",
        )
    fields["tools"] = _tools_named(fields, set(filter(None, map(_tool_name, tools))))
    fields["tool_choice"] = allowed["mode"]


def _tools_named(fields: dict[str, Any], names: set[str]) -> list[Any]:
    """Returns the tools of these names. Raises InvalidInput where one of them is missing."""
    tools = fields.get("tools")
    chosen = (
        [tool for tool in tools if _tool_name(tool) in names] if isinstance(tools, list) else []
    )
    missing = names - {_tool_name(tool) for tool in chosen}
    if missing:
        raise InvalidInput(
            f"cannot answer: tool_choice is for {min(missing)[:80]!r}, which is not in tools",
            field="tool_choice",
        )
    return chosen


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

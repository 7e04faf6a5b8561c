"""llm: its models `magid` (chat) and `other` (Responses), two turns and a tool."""

import json
import sys

import llm


def look(a: str) -> str:
    seen.append(a)
    return "seen"


def turns(model: llm.Model) -> list[str]:
    conversation = model.conversation()
    return [conversation.prompt(text).text() for text in ("Hello", "And now?")]


def calls(model: llm.Model) -> list[str]:
    """The tiny model calls the tool in every turn, so that the limit ends it."""
    seen.clear()
    try:
        model.conversation().chain("Hello", tools=[look], chain_limit=3).text()
    except ValueError:
        return list(seen)
    raise AssertionError("ended without the tool")


seen: list[str] = []
models = {name: llm.get_model(name) for name in sys.argv[1:]}
print(json.dumps({name: [*turns(model), *calls(model)] for name, model in models.items()}))

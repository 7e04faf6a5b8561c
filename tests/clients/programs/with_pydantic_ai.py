"""pydantic-ai: agents over chat and over Responses, with a tool that has no docstring."""

import json
import sys

from pydantic_ai import Agent, UsageLimitExceeded, UsageLimits
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

URL, SMALL, CALLER, THINKER = sys.argv[1:]
KINDS = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}


def model(kind: str, name: str) -> Model:
    return KINDS[kind](name, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="any"))


def two_turns(kind: str, name: str) -> list[str]:
    agent = Agent(model(kind, name), system_prompt="Be brief.")
    agent.tool_plain(look)
    first = agent.run_sync("Hello")
    second = agent.run_sync("And now?", message_history=first.all_messages())
    assert second.usage.output_tokens > 0
    return [first.output, second.output]


def streamed(kind: str) -> str:
    with Agent(model(kind, SMALL)).run_stream_sync("Hello") as answer:
        return "".join(answer.stream_text(delta=True))


def look(a: str) -> str:
    seen.append(a)
    return "seen"


def calls(kind: str) -> list[str]:
    """The tiny model calls the tool in every turn, so that the limit ends it."""
    seen.clear()
    agent = Agent(model(kind, CALLER), tools=[look])
    try:
        agent.run_sync("Hello", usage_limits=UsageLimits(request_limit=2))
    except UsageLimitExceeded:
        return list(seen)
    raise AssertionError("ended without the tool")


seen: list[str] = []
found = {
    kind: {
        "turns": two_turns(kind, SMALL),
        "after thoughts": two_turns(kind, THINKER),
        "streamed": streamed(kind),
        "calls": calls(kind),
    }
    for kind in KINDS
}
print(json.dumps(found))

"""litellm: its providers for OpenAI's, Anthropic's and Ollama's APIs."""

import json
import sys
from typing import Any

import litellm
import openai

URL, SMALL, CALLER, VECTORS = sys.argv[1:]
HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"a": {"const": "b"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
PREFIXES = {"openai": "/v1", "anthropic": "", "ollama_chat": ""}


def complete(provider: str, model: str, messages: list[dict[str, str]], **more: Any) -> Any:
    address = f"{URL}{PREFIXES[provider]}"
    return litellm.completion(
        f"{provider}/{model}", messages, api_base=address, api_key="any", num_retries=0, **more
    )


def streamed(provider: str) -> str:
    parts = complete(provider, SMALL, HELLO, max_tokens=4, stream=True)
    return "".join(part.choices[0].delta.content or "" for part in parts)


def calls(provider: str) -> list[str]:
    answer = complete(provider, CALLER, HELLO, tools=[TOOL])
    return [call.function.arguments for call in answer.choices[0].message.tool_calls or ()]


def error(provider: str, model: str, text: str) -> str:
    try:
        complete(provider, model, [{"role": "user", "content": text}])
    except openai.APIStatusError as refusal:
        return type(refusal).__name__
    return ""


litellm.suppress_debug_info = True
found: dict[str, Any] = {
    provider: {
        "said": complete(provider, SMALL, HELLO, max_tokens=4).choices[0].message.content,
        "streamed": streamed(provider),
        "calls": calls(provider),
        "unknown": error(provider, "gone", "Hello"),
        "too long": error(provider, SMALL, "word " * 3000),
    }
    for provider in PREFIXES
}
options: dict[str, Any] = {"api_base": f"{URL}/v1", "api_key": "any"}
answer = litellm.responses("Hello", f"openai/{SMALL}", max_output_tokens=16, **options)
vectors = litellm.embedding(f"openai/{VECTORS}", ["a", "b"], **options)
found["responses"] = answer.output_text
found["vectors"] = [len(row["embedding"]) for row in vectors.data]
print(json.dumps(found))

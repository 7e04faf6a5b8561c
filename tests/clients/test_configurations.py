"""The configurations of programs in docs/clients.md: what they are told to ask is answered.

The programs themselves are not run: each file is parsed, and what the program's documentation says
of its requests is sent to the address that the file names.
"""

import json
import tomllib
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import yaml

from tests.support import fleets, programs
from tests.support.deadlines import DEADLINE_S
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("configurations")
    with fleets.fleet(parts, folder, fleets.write_with_caller) as running:
        yield running


def streamed(url: str, body: dict[str, Any], **headers: str) -> str:
    """The types of its events, or of its data, one a line."""
    answer = httpx.post(
        url, json=body | {"stream": True}, headers=headers, timeout=DEADLINE_S, trust_env=False
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream"
    return answer.text


def exported(text: str) -> dict[str, str]:
    lines = [line.removeprefix("export ") for line in text.splitlines()]
    return dict(line.split("=", 1) for line in lines)


def chat(model: str) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
    return {"model": model, "messages": HELLO, "tools": [tool], "tool_choice": "auto"}


def test_zed(magid: Running) -> None:
    settings = json.loads(programs.snippet("json", "openai_compatible", magid.url))
    (provider,) = settings["language_models"]["openai_compatible"].values()
    (model,) = provider["available_models"]
    body = chat(model["name"]) | {"max_completion_tokens": 20, "stop": []}
    assert "[DONE]" in streamed(f"{provider['api_url']}/chat/completions", body)


def test_vs_code(magid: Running) -> None:
    (group,) = json.loads(programs.snippet("json", "customendpoint", magid.url))
    (model,) = group["models"]
    assert "[DONE]" in streamed(model["url"], chat(model["id"]) | {"max_tokens": 20})


def test_continue(magid: Running) -> None:
    (model,) = yaml.safe_load(programs.snippet("yaml", "apiBase", magid.url))["models"]
    body = chat(model["model"]) | {"max_tokens": 20}
    assert "[DONE]" in streamed(f"{model['apiBase']}/chat/completions", body)


def test_claude_code(magid: Running) -> None:
    names = exported(programs.snippet("sh", "ANTHROPIC_BASE_URL", magid.url))
    part = {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}
    for name in ("ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL"):
        body = {
            "model": names[name],
            "max_tokens": 20,
            "system": [part],
            "messages": [{"role": "user", "content": [part]}],
            "tools": [{"name": "look", "input_schema": SCHEMA}],
            "thinking": {"type": "adaptive"},
            "output_config": {"effort": "medium"},
            "context_management": {"edits": []},
            "metadata": {"user_id": "someone"},
        }
        said = streamed(
            f"{names['ANTHROPIC_BASE_URL']}/v1/messages?beta=true",
            body,
            Authorization=f"Bearer {names['ANTHROPIC_AUTH_TOKEN']}",
            **{"anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219"},
        )
        assert "event: message_stop" in said


def test_codex(magid: Running) -> None:
    settings = tomllib.loads(programs.snippet("toml", "wire_api", magid.url))
    provider = settings["model_providers"][settings["model_provider"]]
    text = [{"type": "input_text", "text": "Hello"}]
    grammar = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}
    body = {
        "model": settings["model"],
        "instructions": "Be brief.",
        "input": [
            {"type": "message", "role": "developer", "content": text},
            {"type": "message", "role": "user", "content": text},
        ],
        "tools": [
            {"type": "function", "name": "look", "strict": False, "parameters": SCHEMA},
            {"type": "custom", "name": "apply_patch", "description": "x", "format": grammar},
            {"type": "web_search"},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "one",
    }
    assert "event: response.completed" in streamed(f"{provider['base_url']}/responses", body)


def test_open_webui(magid: Running) -> None:
    names = exported(programs.snippet("sh", "OPENAI_API_BASE_URLS", magid.url))
    url = names["OPENAI_API_BASE_URLS"]
    with httpx.Client(headers={"Authorization": "Bearer any"}, trust_env=False) as client:
        listed = client.get(f"{url}/models", timeout=DEADLINE_S).json()["data"]
    assert {"auto", fleets.SMALL} <= {model["id"] for model in listed}
    body = {"model": "auto", "messages": HELLO, "stream_options": {"include_usage": True}}
    assert '"usage":' in streamed(f"{url}/chat/completions", body)


def test_home_assistant(magid: Running) -> None:
    """What its dialogue does before it accepts a model: the list, and tools without parameters."""
    tool: Any = {"name": "look", "parameters": {"type": "object", "properties": {}}}
    with openai.OpenAI(base_url=f"{magid.url}/v1", api_key="any", timeout=DEADLINE_S) as client:
        assert "auto" in [model.id for model in client.models.list()]
        for model in ("auto", fleets.SMALL):
            answer = client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": "Hello"}],
                tools=[{"type": "function", "function": tool}],
                max_tokens=3,
                stream=True,
            )
            assert [chunk for chunk in answer if chunk.choices]

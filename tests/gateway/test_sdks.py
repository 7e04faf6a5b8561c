"""The official SDKs, unmodified, through the gateway to real llama-servers."""

import json
from collections.abc import Iterator

import anthropic
import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionUserMessageParam
from pydantic import SecretStr

from tests.support import fleets
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import SMALL, VECTORS
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

HELLO: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with fleets.fleet(parts, tmp_path_factory.mktemp("sdks"), fleets.write_with_caller) as running:
        yield running


@pytest.fixture
def ai(magid: Running) -> Iterator[openai.OpenAI]:
    url = f"{magid.url}/v1"
    with openai.OpenAI(base_url=url, api_key="any", timeout=DEADLINE_S, max_retries=0) as made:
        yield made


@pytest.fixture
def claude(magid: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=magid.url, api_key="any", timeout=DEADLINE_S, max_retries=0
    ) as made:
        yield made


# -- openai ------------------------------------------------------------------------------------


def test_openai_conversations(ai: openai.OpenAI) -> None:
    answer = ai.chat.completions.create(model="fast", messages=HELLO, max_tokens=4)
    assert answer.choices[0].message.content == "I am a tiny"
    assert answer.model == SMALL
    assert answer.usage
    assert answer.usage.completion_tokens == 4
    stream = ai.chat.completions.create(
        model="fast", messages=HELLO, max_tokens=4, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "I am a tiny"
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 4


def test_openai_models_completions_embeddings_and_responses(ai: openai.OpenAI) -> None:
    ids = [model.id for model in ai.models.list()]
    assert {SMALL, "auto", "fast"} <= set(ids)
    assert ai.models.retrieve(SMALL).owned_by == "magid"
    assert ai.completions.create(model="fast", prompt="Hello", max_tokens=2).choices[0].text
    vectors = ai.embeddings.create(model=VECTORS, input=["a", "b"])  # as base64 by default
    assert [len(row.embedding) for row in vectors.data] == [64, 64]
    response = ai.responses.create(model="fast", input="Hello", max_output_tokens=16)
    assert response.output_text.startswith("I am a tiny")
    events = ai.responses.create(model="fast", input="Hello", max_output_tokens=16, stream=True)
    assert "response.completed" in [event.type for event in events]


SCHEMA = {
    "type": "object",
    "properties": {"a": {"const": "b"}},
    "required": ["a"],
    "additionalProperties": False,
}


def test_a_json_schema_reaches_the_model(ai: openai.OpenAI) -> None:
    """Its grammar makes the tiny model say what it never would."""
    answer = ai.chat.completions.create(
        model="fast", messages=HELLO, max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    )  # fmt: skip
    assert "".join((answer.choices[0].message.content or "").split()).startswith('{"a":')


def test_tools_reach_the_model_and_its_call_comes_back(ai: openai.OpenAI) -> None:
    tool = ChatCompletionFunctionToolParam(
        type="function", function={"name": "look", "parameters": dict(SCHEMA)}
    )
    answer = ai.chat.completions.create(model="Caller-F16", messages=HELLO, tools=[tool])
    calls = answer.choices[0].message.tool_calls
    assert calls
    assert calls[0].type == "function"
    assert (calls[0].function.name, calls[0].function.arguments) == ("look", '{"a": "b"}')
    stream = ai.chat.completions.create(
        model="Caller-F16", messages=HELLO, tools=[tool], stream=True
    )
    parts = [call.function for chunk in stream for call in chunk.choices[0].delta.tool_calls or ()]
    assert "".join(part.arguments or "" for part in parts if part) == '{"a": "b"}'


def test_openai_errors(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        ai.chat.completions.create(model="gone", messages=HELLO)
    assert missing.value.code == "model_not_found"
    assert missing.value.request_id
    with pytest.raises(openai.BadRequestError):
        ai.chat.completions.create(model="fast", messages=HELLO, temperature="hot")


# -- anthropic ---------------------------------------------------------------------------------


def test_anthropic_conversations(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(
        model="fast", max_tokens=4, messages=[{"role": "user", "content": "Hello"}]
    )
    assert answer.content[0].type == "text"
    assert answer.content[0].text == "I am a tiny"
    with claude.messages.stream(
        model="fast", max_tokens=4, messages=[{"role": "user", "content": "Hello"}]
    ) as stream:
        assert "".join(stream.text_stream) == "I am a tiny"
    counted = claude.messages.count_tokens(
        model="fast", messages=[{"role": "user", "content": "Hello"}]
    )
    assert counted.input_tokens > 5


def test_anthropic_errors(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="cannot find model 'gone'") as missing:
        claude.messages.create(
            model="gone", max_tokens=4, messages=[{"role": "user", "content": "Hello"}]
        )
    assert missing.value.request_id == missing.value.response.headers["x-request-id"]


# -- langchain ---------------------------------------------------------------------------------


def test_langchain(magid: Running) -> None:
    url, key = f"{magid.url}/v1", SecretStr("any")
    model = ChatOpenAI(model="fast", base_url=url, api_key=key, max_completion_tokens=4)
    assert model.invoke("Hello").content == "I am a tiny"
    assert "".join(str(chunk.content) for chunk in model.stream("Hello")) == "I am a tiny"
    vectors = OpenAIEmbeddings(
        model=VECTORS,
        openai_api_base=url,
        openai_api_key=key,
        check_embedding_ctx_length=False,
    )
    assert len(vectors.embed_query("Hello")) == 64


# -- llama.cpp's own web client ------------------------------------------------------------------


@pytest.mark.parametrize("query", [f"?model={SMALL}", "?model=my-model&autoload=false"])
def test_what_the_web_client_asks_first(magid: Running, query: str) -> None:
    with fleets.client(magid) as client:
        assert SMALL in {m["id"] for m in client.get("/v1/models").json()["data"]}
        props = client.get(f"/props{query}")
        assert (props.status_code, props.headers["X-Magi-Model"]) == (200, SMALL)
        assert props.json()["model_alias"] == SMALL
        assert props.json()["modalities"]["vision"] is False
        assert len(client.get(f"/slots{query}").json()) == props.json()["total_slots"]


def test_tools_go_to_a_model_that_was_taught_them(magid: Running) -> None:
    """From any tier; without tools, or for a name, nothing changes."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    with fleets.client(magid) as client:

        def answered(**body: object) -> tuple[str, str]:
            answer = client.post("/v1/chat/completions", json=fleets.chat(**body))  # type: ignore[arg-type]  # any field
            assert answer.status_code == 200, answer.text
            return answer.headers["X-Magi-Model"], answer.headers["X-Magi-Route"]

        assert answered(model="fast") == (SMALL, "tier")
        model, why = answered(model="fast", tools=tools)
        assert model.startswith("caller")
        assert why.startswith(f"tier; fast has no model for it; {SMALL} cannot call tools")
        assert answered(model="auto", tools=tools)[0].startswith("caller")
        assert answered(model=SMALL, tools=tools)[0] == SMALL


def test_a_server_of_no_name_is_that_of_auto(magid: Running) -> None:
    with fleets.client(magid) as client:
        assert client.get("/props").headers["X-Magi-Model"]
        unknown = client.get("/props?model=%0d%0aX:%20y")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        assert client.head("/props").status_code == 405


def test_the_web_clients_conversation(magid: Running) -> None:
    """Its request, with the fields that no SDK knows: progress, and timings with each token."""
    body = {
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "model": SMALL,
        "return_progress": True,
        "timings_per_token": True,
        "reasoning_format": "auto",
        "cache_prompt": True,
        "samplers": ["top_k", "temperature"],
        "max_tokens": 4,
    }
    with (
        fleets.client(magid) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
    events = [json.loads(line) for line in lines[:-1]]
    assert lines[-1] == "[DONE]"
    assert any("prompt_progress" in event for event in events)
    assert sum("timings" in event for event in events) > 2

"""What a variant changes in a request, in each dialect. Pure: nothing runs."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from magid.auth.authenticator import LOCAL
from magid.catalog.aliases import Variant
from magid.errors import InvalidInput
from magid.gateway.frontend.request_reader import RequestBuilder, parse_request_head
from magid.gateway.routing import fleet, variants
from magid.gateway.routing.endpoints import find
from magid.gateway.routing.fleet import ChosenVariant, Fleet
from magid.gateway.routing.outline import WHOLE_BYTES
from magid.gateway.routing.request import ParsedRequest
from tests.gateway.test_fleet import made
from tests.gateway.test_outline import finished
from tests.support import values

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
HELLO = [{"role": "user", "content": "Hello"}]
SYSTEM = {"role": "system", "content": "Be brief."}


def applied(path: str, variant: Variant, **fields: Any) -> dict[str, Any]:
    endpoint = find("POST", path)
    assert endpoint is not None
    return variants.applied(ChosenVariant("v", variant), endpoint, fields)


def test_what_is_stripped_what_is_a_default_and_what_is_set() -> None:
    variant = Variant(
        model="m", set={"temperature": 0.2}, defaults={"top_k": 5, "seed": 1}, strip=("min_p",)
    )
    given = {"temperature": 1, "top_k": 9, "seed": None, "min_p": 0.1, "n": 2}
    assert applied(CHAT, variant, **given) == {"temperature": 0.2, "top_k": 9, "seed": 1, "n": 2}
    assert given["min_p"] == 0.1  # the client's fields are left alone


@pytest.mark.parametrize(
    ("path", "word"),
    [
        (CHAT, "max_tokens"),
        ("/v1/completions", "max_tokens"),
        (RESPONSES, "max_output_tokens"),
        (MESSAGES, "max_tokens"),
        ("/infill", "n_predict"),
        ("/completion", "n_predict"),
    ],
)
@pytest.mark.parametrize("own", ["max_tokens", "n_predict", "max_completion_tokens"])
def test_a_limit_has_another_name_at_each_path(path: str, word: str, own: str) -> None:
    limit = {own: 7}
    assert applied(path, Variant(model="m", set=limit), max_completion_tokens=9) == {word: 7}
    assert applied(path, Variant(model="m", defaults=limit)) == {word: 7}
    assert applied(path, Variant(model="m", defaults=limit), n_predict=9) == {"n_predict": 9}
    assert applied(path, Variant(model="m", strip=(own,)), max_output_tokens=9) == {}


def test_anthropics_stop_sequences_are_a_list() -> None:
    variant = Variant(model="m", set={"stop": "END"})
    assert applied(CHAT, variant, stop=["x"]) == {"stop": "END"}
    assert applied(MESSAGES, variant, stop_sequences=["x"]) == {"stop_sequences": ["END"]}


def test_variables_of_the_template_are_taken_one_by_one() -> None:
    kwargs = {"chat_template_kwargs": {"a": 1, "b": 1}}
    own = {"chat_template_kwargs": {"b": 2, "c": 2}}
    wins = applied(CHAT, Variant(model="m", set=kwargs), **own)
    assert wins["chat_template_kwargs"] == {"a": 1, "b": 1, "c": 2}
    yields = applied(CHAT, Variant(model="m", defaults=kwargs), **own)
    assert yields["chat_template_kwargs"] == {"a": 1, "b": 2, "c": 2}


@pytest.mark.parametrize(("path", "budget"), [(CHAT, 9), (RESPONSES, 9), (MESSAGES, 9), (CHAT, 0)])
def test_the_reasoning_of_a_variant_counts(path: str, budget: int) -> None:
    own = {"reasoning_effort": "high", "thinking": {"type": "enabled", "budget_tokens": 99}}
    made = applied(path, Variant(model="m", reasoning=budget), **own)
    assert made.pop("chat_template_kwargs") == {"enable_thinking": budget > 0}
    if path == MESSAGES:
        assert made == {"thinking": {"type": "enabled", "budget_tokens": budget}}
    else:
        assert made == {"thinking_budget_tokens": budget}


def test_reasoning_without_a_limit() -> None:
    variant = Variant(model="m", reasoning=-1)
    own = {"thinking_budget_tokens": 3, "reasoning": {"effort": "none", "summary": "auto"}}
    made = applied(RESPONSES, variant, **own)
    assert made["chat_template_kwargs"] == {"enable_thinking": True}
    assert "thinking_budget_tokens" not in made
    assert made["reasoning"] == {"summary": "auto"}


@pytest.mark.parametrize(
    ("path", "own", "expected"),
    [
        (CHAT, {"messages": HELLO}, {"messages": [{"role": "system", "content": "A"}, *HELLO]}),
        (
            CHAT,
            {"messages": [SYSTEM, *HELLO]},
            {"messages": [{"role": "system", "content": "A\n\nBe brief."}, *HELLO]},
        ),
        (
            CHAT,
            {"messages": [{"role": "developer", "content": [{"type": "text", "text": "B"}]}]},
            {
                "messages": [
                    {
                        "role": "developer",
                        "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}],
                    }
                ]
            },
        ),
        (CHAT, {"messages": 5}, {"messages": 5}),  # llama-server's to refuse
        (CHAT, {"messages": []}, {"messages": []}),
        (MESSAGES, {}, {"system": "A"}),
        (MESSAGES, {"system": "B"}, {"system": "A\n\nB"}),
        (
            MESSAGES,
            {"system": [{"type": "text", "text": "B"}]},
            {"system": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]},
        ),
        (RESPONSES, {"input": "x"}, {"input": "x", "instructions": "A"}),
        (RESPONSES, {"input": "x", "instructions": "B"}, {"input": "x", "instructions": "A\n\nB"}),
        (
            RESPONSES,
            {"input": [SYSTEM, *HELLO]},
            {"input": [{"role": "system", "content": "A\n\nBe brief."}, *HELLO]},
        ),
    ],
)
def test_a_system_prompt_comes_before_the_clients(
    path: str, own: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert applied(path, Variant(model="m", system="A"), **own) == expected


@pytest.mark.parametrize("path", ["/v1/completions", "/completion", "/infill"])
def test_a_text_has_no_place_for_a_system_prompt(path: str) -> None:
    with pytest.raises(InvalidInput, match=f"a text that is continued at {path} has no place"):
        applied(path, Variant(model="m", system="A"), prompt="x")
    assert applied(path, Variant(model="m", reasoning=5), prompt="x") == {"prompt": "x"}


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_tokens_have_no_parameters(path: str) -> None:
    variant = Variant(model="m", set={"a": 1}, system="A", reasoning=0)
    assert applied(path, variant, content="x") == {"content": "x"}


def choosing(**given: Variant | str) -> Fleet:
    aliases = {name: to if isinstance(to, str) else to.model for name, to in given.items()}
    chosen = {n: ChosenVariant(n, to) for n, to in given.items() if isinstance(to, Variant)}
    return Fleet(aliases=aliases, variants=chosen)


def test_a_name_with_the_tag_of_ollama_is_found_too() -> None:
    now = choosing(quick=Variant(model="fast"), other="fast")
    assert variants.find("quick", now) == variants.find("quick:latest", now)
    assert variants.find("other", now) is variants.find("fast", now) is None


def test_a_limited_token_has_the_variants_of_its_models() -> None:
    both = [values.found("a"), values.found("b")]
    given = choosing(quick=Variant(model="a"), deep=Variant(model="b"))
    now = replace(made(both), aliases=given.aliases, variants=given.variants)
    assert fleet.limited(now, ["a"]).variants.keys() == {"quick"}
    assert fleet.limited(now, ["deep"]).variants.keys() == {"deep"}


def built(now: Fleet, path: str, fields: dict[str, Any]) -> ParsedRequest:
    """The request as it goes on to a server."""
    endpoint = find("POST", path)
    assert endpoint is not None
    head = parse_request_head(b"POST %b HTTP/1.1\r\nHost: x" % path.encode(), None)
    builder = RequestBuilder(endpoint, head, "1", "client", LOCAL, 2**26, now)
    body = json.dumps(fields).encode()
    return (
        finished(builder.build_in_steps(body)) if len(body) > WHOLE_BYTES else builder.build(body)
    )


@pytest.mark.parametrize("size", [1, 30 * WHOLE_BYTES])
def test_large_bodies_get_the_same_as_small_ones(size: int) -> None:
    """Without being parsed: their long texts go on as the bytes that came."""
    now = choosing(v=Variant(model="fast", set={"top_k": 5}, system="A", reasoning=0))
    text = '"\n' * size
    messages = [{"role": "system", "content": text, "name": None}, *HELLO]
    request = built(now, CHAT, {"model": "v", "top_k": 9, "messages": messages})
    assert (request.model, request.variant) == ("v", "v")
    sent = json.loads(b"".join(request.pieces or (request.body,)))
    assert sent == {
        "model": "v",
        "top_k": 5,
        "messages": [{"role": "system", "content": f"A\n\n{text}"}, *HELLO],
        "chat_template_kwargs": {"enable_thinking": False},
        "thinking_budget_tokens": 0,
    }
    assert request.prompt.text_chars == len(f"A\n\n{text}Hello")
    assert bool(request.pieces) == (size > 1)


@pytest.mark.parametrize("size", [1, 30 * WHOLE_BYTES])
def test_ollamas_requests_are_translated_first(size: int) -> None:
    variant = Variant(model="fast", defaults={"max_tokens": 5}, strip=("temperature",), system="A")
    fields = {
        "model": "v:latest",
        "messages": [{"role": "user", "content": "x" * size}],
        "options": {"temperature": 1, "top_k": 3},
        "stream": False,
        "think": True,
    }
    request = built(choosing(v=variant), "/api/chat", fields)
    sent = json.loads(b"".join(request.pieces or (request.body,)))
    assert sent == {
        "model": "v:latest",
        "messages": [{"role": "system", "content": "A"}, *fields["messages"]],  # type: ignore[misc]
        "top_k": 3,
        "max_tokens": 5,
        "chat_template_kwargs": {"enable_thinking": True},
    }


def test_a_request_without_a_variant_goes_on_as_it_came() -> None:
    now = choosing(v=Variant(model="fast", set={"top_k": 5}), plain="fast")
    request = built(now, CHAT, {"model": "plain", "messages": HELLO})
    assert request.body == json.dumps({"model": "plain", "messages": HELLO}).encode()
    assert request.variant == ""

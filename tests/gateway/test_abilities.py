"""Which model gets a request, by what each can do, whether it runs or not. Pure."""

from typing import Any

import pytest

from magid.discovery.abilities import ModelAbilities
from magid.discovery.found import FoundModel
from magid.discovery.kinds import ModelKind
from magid.discovery.tiers import Tier
from magid.errors import InvalidInput, MagidError
from magid.gateway.routing import auto_tier, model_list, resolver
from magid.gateway.routing.conversations import Conversations
from magid.gateway.routing.endpoints import find
from magid.gateway.routing.fleet import Fleet, ServerProperties, StartPause
from magid.gateway.routing.request import ParsedRequest
from magid.gateway.routing.resolver import ModelRoute
from tests.gateway.test_fleet import made
from tests.support import ollama, values

TEXT = ModelAbilities(tools=False, images=False, audio=False)
CALLER = ModelAbilities(tools=True, images=False, audio=False)
SEER = ModelAbilities(tools=False, images=True, audio=False)
TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}]}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


def model(name: str, able: ModelAbilities = TEXT, **changes: Any) -> FoundModel:
    return values.found(name, **{"abilities": able, "tier": Tier.BALANCED, **changes})


def chat(name: str, content: object = "Hello", **more: object) -> ParsedRequest:
    endpoint = find("POST", "/v1/chat/completions")
    assert endpoint is not None
    fields = {"model": name, "messages": [{"role": "user", "content": content}], **more}
    return ParsedRequest(endpoint, repr(fields).encode(), fields, name)


def route(request: ParsedRequest, now: Fleet) -> ModelRoute:
    return auto_tier.route(request, now, Conversations())


def test_an_embedding_model_has_no_say_in_who_gets_tools() -> None:
    able = ModelAbilities(tools=None)  # as if its server were not asked yet
    now = made([model("a"), model("vectors", able, kind=ModelKind.EMBEDDING)])
    assert route(chat("balanced", **TOOLS), now).starts == "a"


def test_a_load_by_tier_loads_what_a_chat_would_get() -> None:
    vectors = model("v", kind=ModelKind.EMBEDDING, size_bytes=1)
    now = made([vectors, model("c", size_bytes=2)])
    for name, chosen in (("balanced", "c"), ("auto", "c"), ("v", "v")):
        endpoint, body = ollama.translated("/api/chat", model=name)
        assert route(ParsedRequest(endpoint, b"", body, name), now).starts == chosen


def test_tools_start_the_one_model_that_was_taught_them() -> None:
    now = made([model("a", size_bytes=1), model("b", CALLER, size_bytes=2), model("c")])
    found = route(chat("balanced", **TOOLS), now)
    assert found.starts == "b"
    assert found.why == "tier; a cannot call tools; c cannot call tools"
    assert route(chat("balanced"), now).starts == "a"
    assert route(chat("a", **TOOLS), now).starts == "a"


def test_tools_go_to_another_tier_before_they_go_to_a_model_without() -> None:
    now = made([model("a"), model("b", CALLER, tier=Tier.POWERFUL)], ready=["a"])
    assert route(chat("balanced", **TOOLS), now).starts == "b"


def test_a_model_that_rests_is_passed_over_and_tools_go_on() -> None:
    models = [model("a"), model("b", CALLER), model("c", CALLER, tier=Tier.POWERFUL)]
    now = made(models, resting={"b": StartPause("could not be started (no memory)")})
    found = route(chat("balanced", **TOOLS), now)
    assert (found.tier, found.starts) == (Tier.POWERFUL, "c")
    assert "b could not be started" in found.why
    resting = dict.fromkeys(["b", "c"], StartPause("could not be started (no memory)"))
    assert route(chat("balanced", **TOOLS), made(models, resting=resting)).starts == "a"


def test_an_image_goes_to_the_model_with_a_projector_for_it() -> None:
    hearer = ModelAbilities(tools=False, images=False, audio=True)
    now = made([model("a", size_bytes=1), model("b", SEER), model("c", hearer)], ready=["a"])
    found = route(chat("auto", [IMAGE]), now)
    assert (found.backends, found.starts) == ((), "b")
    assert "a cannot see images" in found.why
    assert route(chat("balanced", [SOUND]), now).starts == "c"


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"]
)
def test_no_server_is_asked_to_fetch_an_image(path: str) -> None:
    """To count its tokens it would fetch it too."""
    source = {"type": "image", "source": {"type": "url", "url": "http://other.example/a.png"}}
    endpoint, now = find("POST", path), made([model("a", SEER)], ready=["a"])
    assert endpoint is not None
    fields = {"model": "a", "messages": [{"role": "user", "content": [source]}]}
    with pytest.raises(InvalidInput, match="neither magid nor its servers fetch anything"):
        route(ParsedRequest(endpoint, repr(fields).encode(), fields, "a"), now)


@pytest.mark.parametrize("is_running", [False, True])
def test_a_model_that_cannot_is_refused_by_name_with_one_that_can(*, is_running: bool) -> None:
    now = made([model("a"), model("b", SEER)], ready=["a"] * is_running)
    with pytest.raises(InvalidInput) as refused:
        route(chat("a", [IMAGE]), now)
    assert refused.value.message == (
        "cannot answer this request: a cannot see images: it has no projector for them; b can"
    )


def test_where_only_a_disabled_model_can_it_is_named() -> None:
    now = made([model("a"), model("b", SEER)], disabled=["b"])
    for name in ("a", "balanced", "auto"):
        with pytest.raises(InvalidInput, match="; b can, which is disabled"):
            route(chat(name, [IMAGE]), now)
    with pytest.raises(InvalidInput, match=r"for it$"):
        route(chat("a", [SOUND]), now)


def test_what_a_server_says_counts_more_than_the_files() -> None:
    models = [model("a", CALLER), model("b", CALLER, tier=Tier.POWERFUL)]
    now = made(models, facts={"a": ServerProperties(1, tools=False)})
    assert route(chat("balanced", **TOOLS), now).starts == "b"
    seen = made(models, seen={"a": ServerProperties(1, tools=False)})
    assert route(chat("balanced", **TOOLS), seen).starts == "b"
    sees = made([model("a")], facts={"a": ServerProperties(1, vision=True)})
    assert route(chat("a", [IMAGE]), sees).backends


def test_what_a_server_does_not_say_is_left_to_the_files() -> None:
    now = made(
        [model("a"), model("b", CALLER)], facts={"a": ServerProperties(1), "b": ServerProperties(1)}
    )
    (backend,) = route(chat("balanced", **TOOLS), now).backends
    assert backend.model_id == "b"


def test_a_request_that_brought_a_model_up_starts_no_second_one() -> None:
    models = [model("a", CALLER), model("b", CALLER, tier=Tier.POWERFUL)]
    now = made(models, facts={"a": ServerProperties(1, tools=False)})
    request = chat("balanced", **TOOLS)
    first = route(request, now)
    assert first.starts == "b"
    second = resolver.without_second_start(first, {"a"}, request, now)
    assert [backend.model_id for backend in second.backends] == ["a"]
    assert resolver.without_second_start(first, {"b"}, request, now) is first
    assert resolver.without_second_start(first, set(), request, now) is first


def test_the_context_of_a_model_that_is_stopped() -> None:
    """As set, as trained for, or as its server had it."""
    now = made(
        [model("a"), model("b"), model("c")],
        settings={"b": {"ctx_size": 1024}},
        seen={"c": ServerProperties(1, context=512)},
    )
    assert [offer.context for offer in now.offers.values()] == [4096, 1024, 512]
    with pytest.raises(MagidError, match="context of 1024 tokens"):
        route(chat("b", "word " * 4000), now)


def test_the_list_of_models_says_what_each_can_do() -> None:
    now = made(
        [model("a", SEER), model("b", CALLER)], facts={"b": ServerProperties(1, tools=False)}
    )
    entries = {entry["id"]: entry["meta"].get("abilities") for entry in model_list.entries(now)}
    assert entries["a"] == {
        "tools": False, "images": True, "audio": False, "thinking": "none", "infill": None,
        "embedding_length": None,
    }  # fmt: skip
    assert entries["b"]["tools"] is False

"""The gateway's pure decisions: which server, who waits, who is out, where conversations went."""

from typing import Any

import pytest

from magid.catalog.effective import remembered_tier
from magid.catalog.profile import Strategy
from magid.catalog.registry import ModelEntry
from magid.discovery.tiers import Tier
from magid.gateway.proxy import load_balancer
from magid.gateway.proxy.load_balancer import Load
from magid.gateway.proxy.queue import FairQueue, FairQueues
from magid.gateway.proxy.server import FAILURES, FIRST_S, MAX_S, Breaker, blames_request
from magid.gateway.routing import request
from magid.gateway.routing.conversations import Conversations
from tests.support import values


def load(key: str, outstanding: int = 0, **more: Any) -> Load:
    return Load(key, slots=more.pop("slots", 2), outstanding=outstanding, **more)


def chosen(strategy: Strategy, *loads: Load) -> str | None:
    found = load_balancer.choose(strategy, loads)
    return found.key if found else None


# -- balancing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_full_server_is_never_chosen(strategy: Strategy) -> None:
    assert chosen(strategy, load("full", 2), load("free", 1, turns=9, missing_tokens=9e9)) == "free"
    assert chosen(strategy, load("full", 2), load("other", 2)) is None
    assert chosen(strategy) is None


def test_round_robin_goes_by_turns_alone() -> None:
    assert chosen(Strategy.ROUND_ROBIN, load("a", 0, turns=2), load("b", 1, turns=1)) == "b"


def test_least_outstanding_counts_slots_and_weight() -> None:
    least = Strategy.LEAST_OUTSTANDING
    assert chosen(least, load("a", 1), load("b", 0)) == "b"
    assert chosen(least, load("a", 1, slots=2), load("b", 2, slots=8)) == "b"
    assert chosen(least, load("a", 1, slots=4), load("b", 2, slots=4, weight=3)) == "b"
    assert chosen(least, load("a", turns=1), load("b", turns=0)) == "b"


def test_prefix_affinity_weighs_the_cache_against_the_queue() -> None:
    def pick(missing: float, outstanding: int) -> str | None:
        warm = load("warm", outstanding, missing_tokens=10, service_s=4, prefill_rate=1000)
        cold = load("cold", 0, missing_tokens=missing, service_s=4, prefill_rate=1000)
        return chosen(Strategy.PREFIX_AFFINITY, cold, warm)

    assert pick(missing=1000, outstanding=0) == "warm"
    assert pick(missing=1000, outstanding=1) == "cold"  # 1 s of reading beside 2 s of sharing
    assert pick(missing=8000, outstanding=1) == "warm"


# -- breaker -----------------------------------------------------------------------------------


def test_it_opens_at_once_and_closes_when_magid_finds_the_server_well() -> None:
    breaker = Breaker()
    assert breaker.opens(100, "gone")
    assert not breaker.opens(100, "gone again")
    breaker.found_well(100 + FIRST_S / 2)
    assert breaker.is_open  # it rests a while
    assert breaker.reason == "gone"
    breaker.found_well(100 + FIRST_S)
    assert (breaker.open_until, breaker.reason) == (None, "")


def test_the_wait_doubles_up_to_its_limit() -> None:
    breaker, now, waits = Breaker(), 0.0, []
    for _ in range(8):
        breaker.opens(now, "gone")
        assert breaker.open_until is not None
        waits.append(breaker.open_until - now)
        now = breaker.open_until
    assert waits == [1, 2, 4, 8, 16, MAX_S, MAX_S, MAX_S]


def test_requests_that_fail_never_open_it() -> None:
    """They are a reason to ask the server, after a few with none between them that went well."""
    breaker = Breaker()
    assert [breaker.request_failed() for _ in range(FAILURES)] == [False] * (FAILURES - 1) + [True]
    breaker.request_succeeded()
    assert not breaker.request_failed()
    for _ in range(1000):
        breaker.request_failed()
    assert not breaker.is_open


def test_one_that_failed_its_work_comes_back_by_work_and_not_by_health() -> None:
    breaker = Breaker()
    breaker.opens(0, "it fails", needs_work=True)
    breaker.request_succeeded()
    breaker.found_well(MAX_S)
    assert breaker.is_open
    breaker.found_well(MAX_S, by_work=True)
    assert breaker.open_until is None


@pytest.mark.parametrize(
    ("status", "message", "blames"),
    [
        (500, "Failed to parse messages: [json.exception.type_error.302] type must be", True),
        (500, "image input is not supported - hint: if this is unexpected", True),
        (501, "This server does not support embeddings. Start it with `--embeddings`", True),
        (500, "Invalid device", False),
        (503, "Loading model", False),
    ],
)
def test_what_an_answer_blames_on_its_request(status: int, message: str, blames: bool) -> None:
    body = b'{"error":{"code":500,"message":"%b","type":"server_error"}}' % message.encode()
    assert blames_request(status, body) is blames


# -- waiting -----------------------------------------------------------------------------------


def taken(room: FairQueue[str]) -> list[str]:
    """All, in the order in which they would be served."""
    order = []
    while (found := room.next()) is not None:
        order.append(found[1])
    return order


def test_clients_take_turns_and_each_keeps_its_order() -> None:
    room: FairQueue[str] = FairQueue(limit=10)
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        assert room.enter(item[0], item)
    assert taken(room) == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert room.next() is None


def test_a_full_room_lets_nobody_in_until_somebody_leaves() -> None:
    room: FairQueue[str] = FairQueue(limit=1)
    assert room.enter("a", "x")
    assert not room.enter("b", "y")
    assert room.leave("a", "x")
    assert not room.leave("a", "x")
    assert room.enter("b", "y")
    assert len(room) == 1


def test_who_could_not_go_is_the_next_one_again() -> None:
    room: FairQueue[str] = FairQueue(limit=5)
    for item in ("a1", "a2", "b1"):
        room.enter(item[0], item)
    assert room.next() == ("a", "a1")
    room.put_back("a", "a1")
    assert taken(room) == ["a1", "b1", "a2"]


def test_each_pool_has_a_room_and_a_full_pool_keeps_no_other_waiting() -> None:
    rooms: FairQueues[str] = FairQueues(limit=2)
    for pool, item in (("x", "a1"), ("x", "a2"), ("y", "b1"), ("y", "b2")):
        assert rooms.enter(pool, item[0], item)
    assert not rooms.enter("x", "c", "c1")
    assert (len(rooms), rooms.lengths()) == (4, {"x": 2, "y": 2})
    tried: list[str] = []

    def place(item: str) -> bool:
        tried.append(item)
        return item != "a1"

    rooms.serve(place)
    assert (tried, len(rooms), rooms.lengths()) == (["a1", "b1", "b2"], 2, {"x": 2, "y": 0})
    rooms.leave("x", "a", "a1")
    rooms.leave("x", "a", "a1")
    rooms.leave("z", "a", "a1")
    assert rooms.drain(lambda item: item == "a1") == []
    assert rooms.drain(lambda _item: True) == ["a2"]
    assert len(rooms) == 0


# -- what is remembered --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_id", "decided", "tier"),
    [
        ("demo_4p0b_q4km_fast", {}, Tier.FAST),
        ("demo_4p0b_q4km_powerful_2", {}, Tier.POWERFUL),
        ("demo_4p0b_q4km_fast", {"thinking_override": True}, Tier.POWERFUL),
        ("demo_4p0b_q4km_fast", {"tier_override": Tier.BALANCED}, Tier.BALANCED),
        ("demo", {}, Tier.BALANCED),
    ],
)
def test_the_tier_of_a_model_whose_file_is_not_read_yet(
    model_id: str, decided: dict[str, Any], tier: Tier
) -> None:
    entry = ModelEntry(
        model_id=model_id, path="/m", size_bytes=1, discovered_at=values.NOW, **decided
    )
    assert remembered_tier(entry) is tier


# -- prompts and conversations -------------------------------------------------------------------


def talk(*texts: str, system: str = "Be brief.") -> dict[str, Any]:
    roles = ["user", "assistant"]
    said = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    return {"messages": [{"role": "system", "content": system}, *said]}


def test_a_conversation_is_found_again_by_its_beginning() -> None:
    known = Conversations()
    known.remember(request.read(talk("Hello", "Hi", "How?")), "one", Tier.POWERFUL)
    longer = request.read(talk("Hello", "Hi", "How?", "So.", "And then?"))
    assert known.before(longer) == (Tier.POWERFUL, "one")
    cached = known.cached_chars(longer)["one"]
    assert 0 < cached < longer.text_chars
    assert known.before(request.read(talk("Other", "Hi", "How?"))) == (None, None)
    assert known.before(request.read(talk("Hello"))) == (None, None)


def test_a_shared_system_prompt_is_a_short_prefix() -> None:
    known = Conversations()
    system = "You help. " * 50
    known.remember(request.read(talk("Hello", system=system)), "one", None)
    other = request.read(talk("Something else entirely", system=system))
    assert known.cached_chars(other) == {"one": len(system)}


def test_old_conversations_are_forgotten() -> None:
    known = Conversations(limit=4)
    first = request.read(talk("first"))
    known.remember(first, "one", None)
    for number in range(4):
        known.remember(request.read(talk(str(number), system=str(number))), "two", None)
    assert len(known) == 4
    assert known.cached_chars(first) == {}


def test_prompts_of_all_apis_are_understood() -> None:
    assert request.read({"prompt": "Hello"}).newest == "Hello"
    assert request.read({"input": "Hello"}).newest == "Hello"
    parts = [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": "x"}}]
    seen = request.read({"messages": [{"role": "user", "content": parts}], "tools": [{"a": 1}]})
    assert (seen.newest, seen.images, seen.has_tools, seen.turns) == ("See", 1, True, 1)
    claude = request.read({"system": "Be brief.", "messages": [{"role": "user", "content": "Hi"}]})
    assert len(claude.chain) == 2
    assert request.read({"max_tokens": 5, "messages": 7, "tools": "x"}).answer_tokens == 5
    assert request.read({"messages": [None, 3, {"role": "user"}, {"content": [1, "a", {}]}]}).chain


DATA = "data:image/png;base64,aGVsbG8="
AWAY = "http://169.254.169.254/latest/meta-data/"


def said(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("fields", "is_remote"),
    [
        (said({"type": "text", "text": AWAY}), False),
        (said({"type": "image_url", "image_url": {"url": DATA}}), False),
        (said({"type": "image_url", "image_url": {"url": DATA.upper()}}), False),
        (said({"type": "input_audio", "input_audio": {"data": "aGVsbG8="}}), False),
        (said({"type": "tool_use", "input": {"url": AWAY}}), False),
        ({"messages": [], "tools": [{"type": "image", "url": AWAY}]}, False),
        (said({"type": "image_url", "image_url": {"url": AWAY}}), True),
        (said({"type": "image_url", "image_url": {"url": f" {AWAY}"}}), True),
        (said({"type": "image_url", "image_url": {"url": "file:///etc/shadow"}}), True),
        (said({"type": "image_url", "image_url": AWAY}), True),
        ({"input": [{"content": [{"type": "input_image", "image_url": AWAY}]}]}, True),
        ({"input": [{"type": "function_call_output", "output": [
            {"type": "input_image", "image_url": AWAY}]}]}, True),
        (said({"type": "image", "source": {"type": "url", "url": AWAY}}), True),
        (said({"type": "tool_result", "content": [
            {"type": "image", "source": {"type": "url", "url": AWAY}}]}), True),
        (said({"type": "input_audio", "input_audio": {"url": AWAY}}), True),
        (said({"type": "text"}, {"type": "image_url", "image_url": {"url": AWAY}}), True),
    ],
)  # fmt: skip
def test_media_named_by_an_address_are_seen(fields: dict[str, Any], *, is_remote: bool) -> None:
    assert request.read(fields).is_remote is is_remote

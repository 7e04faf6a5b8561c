"""A large body is read in small steps: what is cut out of it, what is counted and refused."""

import gc
import json
import random
import tracemalloc
from collections.abc import Generator
from typing import Any

import pytest
from pydantic_core import from_json, to_json

from magid.errors import InvalidInput
from magid.gateway.routing import request
from magid.gateway.routing.endpoints import find
from magid.gateway.routing.outline import (
    CUT_BYTES,
    HEAVY,
    MAX_BYTES,
    MAX_WEIGHT,
    STEP_BYTES,
    Outline,
    outlined,
)
from magid.gateway.routing.request import MAX_MESSAGES, ParsedRequest, parse, parse_large

MIB = 2**20


def finished(steps: Generator[None, None, Any]) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def read(body: bytes) -> Outline:
    seen: Outline = finished(outlined(body))
    return seen


def restored(seen: Outline, fields: Any = None) -> Any:
    text = to_json(seen.fields if fields is None else fields)
    return from_json(b"".join(seen.restored(text)))


def chat(content: object, **more: object) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": content}], **more}


# -- nothing is lost -----------------------------------------------------------------------------

LETTERS = ['"', "\\", "\n", "\x01", "/", "a", " ", "é", "你", "😀", ",", "[", "{", ":", "]"]


def some_text(dice: random.Random) -> str:
    length = dice.choice([0, 1, 5, CUT_BYTES - 1, CUT_BYTES, 3000, 2 * STEP_BYTES + 7])
    alphabet = dice.sample(LETTERS, dice.randint(1, 4))
    return "".join(dice.choices(alphabet, k=length))


def some_value(dice: random.Random, depth: int = 0) -> Any:
    kind = dice.randrange(8 if depth < 4 else 4)
    if kind < 3:
        return some_text(dice)
    if kind == 3:
        return dice.choice([None, True, False, 0, -17, 1.5e-300, 10**18])
    if kind < 6:
        return [some_value(dice, depth + 1) for _ in range(dice.randint(0, 4))]
    return {some_text(dice): some_value(dice, depth + 1) for _ in range(dice.randint(0, 4))}


@pytest.mark.parametrize("seed", range(40))
def test_every_body_comes_back_whole(seed: int) -> None:
    dice = random.Random(seed)
    data = {"model": "m", "messages": [some_value(dice) for _ in range(6)]}
    for is_ascii in (True, False):
        for indent in (None, 3):
            body = json.dumps(data, ensure_ascii=is_ascii, indent=indent).encode()
            seen = read(body)
            assert restored(seen) == data
            assert len(to_json(seen.fields)) < len(body) or not seen.cuts


@pytest.mark.parametrize("seed", range(10))
def test_what_is_broken_anywhere_is_refused_as_a_parser_does(seed: int) -> None:
    dice = random.Random(seed)
    whole = json.dumps(chat([some_text(dice) for _ in range(8)]), ensure_ascii=False).encode()
    for _ in range(60):
        body = bytearray(whole)
        at = dice.randrange(len(body))
        body[at : at + dice.randint(0, 3)] = dice.choice(
            [b"", b"\xff", b"\x00", b'"', b"\\", b"\\ud800", b"\\u12", b"\xe4\xbd", b"]", b"\n"]
        )
        try:
            expected = from_json(bytes(body))
        except ValueError:
            with pytest.raises(InvalidInput):
                read(bytes(body))
        else:
            assert restored(read(bytes(body))) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'"',
        b'{"a":"' + b"x" * 2 * STEP_BYTES,
        b'{"a":"' + b"x" * STEP_BYTES + b'\xff"}',
        b'{"a":"' + b"x" * STEP_BYTES + b'\x07"}',
        b'{"a":"' + b"\\u0000" * STEP_BYTES + b'\\x"}',
        b'{"a":"' + b"x" * STEP_BYTES + b'\\ud83d"}',
        b'{"a":"' + b"x" * STEP_BYTES + b"\\",
        b"[" * 100_000,
        b"[" * 5000 + b"]" * 5000,
    ],
)
def test_a_body_that_is_not_json(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="cannot "):
        read(body)


def test_the_last_of_two_equal_keys_counts() -> None:
    long = "x" * 5000
    body = b'{"model":"%b","model":"two","model":"a"}' % long.encode()
    assert read(body).fields == {"model": "a"}


# -- what is known of a long string --------------------------------------------------------------


def test_long_strings_are_cut_out() -> None:
    picture = "data:image/png;base64," + "QUJD" * MIB
    data = chat([{"type": "image_url", "image_url": {"url": picture}}])
    seen = read(json.dumps(data).encode())
    assert len(to_json(seen.fields)) < 500
    assert seen.fields["messages"][0]["content"][0]["image_url"]["url"].startswith("data:")
    assert not request.read(seen.fields, seen).is_remote
    assert restored(seen) == data


@pytest.mark.parametrize("letter", ["a", "é", "你", "😀", "\n", '"', "\x00"])
@pytest.mark.parametrize("is_ascii", [True, False])
def test_a_prompt_is_seen_alike_however_it_came(letter: str, *, is_ascii: bool) -> None:
    text = "Prove this theorem. " + letter * 40_000 + " Why, step by step?"
    data = chat(text, system="Be brief. " * 300)
    body = json.dumps(data, ensure_ascii=is_ascii).encode()
    seen = read(body)
    large, whole = request.read(seen.fields, seen), request.read(data)
    assert large.text_chars == whole.text_chars
    assert (large.chain, large.chars) == (whole.chain, whole.chars)
    assert large.newest[:3000] == whole.newest[:3000]
    assert large.newest[-1000:] == whole.newest[-1000:]


def test_a_conversation_that_grows_is_known_again() -> None:
    """Its first requests are parsed as a whole, later ones in outline."""
    parts = [{"type": "text", "text": "long " * 1000}, {"type": "text", "text": "short"}]
    before = chat(parts)
    after = {**before, "messages": [*before["messages"], {"role": "user", "content": "b" * MIB}]}
    seen = read(json.dumps(after).encode())
    assert request.read(seen.fields, seen).chain[0] == request.read(before).chain[0]


def test_a_text_that_looks_like_a_mark_is_one_of_the_client() -> None:
    mark = "cut:" + "0" * 32
    data = chat([mark, "x" * 5000, f"see {mark}"])
    seen = read(json.dumps(data).encode())
    assert restored(seen) == data
    assert request.read(seen.fields, seen).text_chars == 5000 + 2 * len(mark) + 4


def test_a_model_is_no_long_text() -> None:
    body = json.dumps({"model": "x" * 100_000}).encode()
    endpoint = find("POST", "/v1/chat/completions")
    assert endpoint is not None
    with pytest.raises(InvalidInput, match="not a name"):
        finished(parse_large(endpoint, body))


def test_a_changed_body_copies_no_long_string() -> None:
    data = chat("x" * 8 * MIB, tools=None)
    body = json.dumps(data).encode()
    endpoint = find("POST", "/v1/chat/completions")
    assert endpoint is not None
    fields, model, seen = finished(parse_large(endpoint, body))
    request = ParsedRequest(endpoint, body, fields, model, outline=seen)
    tracemalloc.start()
    try:
        changed = request.changed({k: v for k, v in fields.items() if v is not None}, model="other")
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert (changed.size, changed.model) == (sum(map(len, changed.pieces)), "other")
    assert from_json(b"".join(changed.pieces)) == {k: v for k, v in data.items() if v is not None}


# -- numbers in a row ----------------------------------------------------------------------------

NUMBERS = [
    b"12345,",
    b"-0.5e-7,",
    b"0,",
    b"1 ,\n",
    b"18446744073709551616,",
]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_in_a_row_come_back_as_they_were(number: bytes) -> None:
    row = number * 40_000 + b"7"
    body = b'{"input":[%b],"prompt":[[1,%b],"x",[%b]],"a":{"b":[%b]}}' % ((row,) * 4)
    seen = read(body)
    assert len(to_json(seen.fields)) < len(body) / 10
    assert restored(seen) == from_json(body)


@pytest.mark.parametrize(
    "row", [b"1,,2,", b"01,2,", b"1.,2,", b"--1,2,", b"1e,2,", b"1 2,3,", b"+1,2,", b".5,1,"]
)
def test_what_are_no_numbers_are_refused(row: bytes) -> None:
    body = b'{"input":[%b1]}' % (row * 30_000)
    with pytest.raises(InvalidInput, match="not JSON"):
        read(body)


def test_a_number_that_looks_like_a_mark_is_one_of_the_client() -> None:
    data = {"input": [10**39 + 7, 10**39 + 8, *range(50_000)], "x": 10**39}
    assert restored(read(json.dumps(data).encode())) == data


def test_numbers_where_none_can_be_are_refused() -> None:
    row = b"12345," * 20_000
    for body in (b'{"a":1,%b"b":2}', b"%b1", b'{"a":{%b1}}', b'{"a":[%b]}'):
        with pytest.raises(InvalidInput, match="not JSON"):
            read(body % row)


# -- bounds --------------------------------------------------------------------------------------


def test_what_is_large_and_right_is_taken() -> None:
    tokens = {"input": list(range(100_000, 300_000))}
    for body in (json.dumps(tokens).encode(), json.dumps(tokens, indent=8).encode()):
        seen = read(body)
        assert restored(seen) == tokens
        assert seen.length(seen.fields["input"]) == 200_000
        assert len(seen.fields["input"]) < 3000
    talk = [{"role": "user", "content": [{"type": "text", "text": "x" * 900}]}] * 2000
    assert len(read(json.dumps({"messages": talk}).encode()).fields["messages"]) == 2000
    long = [{"role": "user", "content": "x" * 10_000}] * 2000
    seen = read(json.dumps({"messages": long}).encode())
    assert request.read(seen.fields, seen).text_chars == 20_000_000


HOSTILE = {
    "lists": (b'{"x":[', b"[],", b"[]]}"),
    "numbers": (b'{"messages":[', b"1,", b"1]}"),
    "messages": (b'{"messages":[', b'{"content":""},', b"1]}"),
    "empty strings": (b'{"x":[', b'"",', b"1]}"),
    "short strings": (b'{"x":[', b'"' + b"x" * 200 + b'",', b"1]}"),
    "deep": (b"", b'{"x":[', b""),
    "one number": (b'{"x":', b"9", b"}"),
    "large numbers": (b'{"x":[', b"9" * 4000 + b",", b"1]}"),
    "spaces between": (b'{"x":[', b"1" + b" " * 20 + b",", b"1]}"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_refused_costs_no_memory(name: str) -> None:
    """Before anything of it is parsed: a list of 3 bytes would take 64."""
    head, one, tail = HOSTILE[name]
    body = head + one * (12 * MIB // len(one)) + tail
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match=f"{MAX_WEIGHT}|digits"):
            read(body)
        assert tracemalloc.get_traced_memory()[1] < 2 * MAX_BYTES
    finally:
        tracemalloc.stop()


def test_keys_are_counted_too() -> None:
    body = json.dumps({str(n): 1 for n in range(MAX_WEIGHT // HEAVY)}).encode()
    with pytest.raises(InvalidInput, match="too many parts"):
        read(body)


LARGE = {
    "numbers of five digits": b'{"input":[' + b"12345," * (MIB // 6) + b"1]}",
    "vectors": b'{"input":[' + b"-0.123456," * (MIB // 10) + b"1]}",
    "short texts": b'{"input":[' + b'"' + b'","'.join([b"x" * 500] * 2100) + b'"]}',
    "parts": json.dumps(chat([{"type": "text", "text": "x" * 600}] * 1800)).encode(),
    "messages": json.dumps({"messages": [{"role": "user", "content": "x" * 400}] * 2500}).encode(),
    "tools": json.dumps({"tools": [{"function": {"description": "x" * 900}}] * 1100}).encode(),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_request_costs_less_than_two_times_its_body(name: str) -> None:
    """Beside the body: what was parsed of it, and what is looked at to choose a server."""
    body = LARGE[name]
    assert len(body) > 0.95 * MIB
    endpoint = find("POST", "/v1/chat/completions")
    assert endpoint is not None
    gc.collect()
    tracemalloc.start()
    try:
        fields, model, seen = finished(parse_large(endpoint, body))
        made = ParsedRequest(endpoint, body, fields, model, outline=seen)
        assert made.prompt.chain or "messages" not in fields
        assert tracemalloc.get_traced_memory()[1] < 2 * len(body)
    finally:
        tracemalloc.stop()


BODIES = {
    "a picture": b'{"a":"data:' + b"QUJD" * (4 * MIB) + b'"}',
    "escapes": b'{"a":"' + b"\\u0000" * MIB + b'"}',
    "wide text": b'{"a":"' + ("x" * 1000 + "😀").encode() * 4000 + b'"}',
    "spaces": b'{"a":' + b" " * (8 * MIB) + b"1}",
    "long strings": b'{"a":[' + b'"' + b'","'.join([b"x" * 1100] * 8000) + b'"]}',
}


@pytest.mark.parametrize("name", BODIES)
def test_memory_and_steps_are_bounded(name: str) -> None:
    """What a step takes goes with its bytes: each looks at most at two times STEP_BYTES."""
    body = BODIES[name]
    steps = outlined(body)
    count = 0
    gc.collect()
    tracemalloc.start()
    try:
        for _ in steps:
            count += 1
        assert tracemalloc.get_traced_memory()[1] < len(body) / 2 + MIB
    finally:
        tracemalloc.stop()
    assert count >= len(body) // (2 * STEP_BYTES)


def test_no_message_too_many_is_hashed() -> None:
    endpoint = find("POST", "/v1/chat/completions")
    assert endpoint is not None
    for messages in ([1] * (MAX_MESSAGES + 1), [{"role": "user"}] * (MAX_MESSAGES + 1)):
        body = json.dumps({"messages": messages}).encode()
        with pytest.raises(InvalidInput, match=f"{MAX_MESSAGES + 1} messages, over {MAX_MESSAGES}"):
            parse(endpoint, body)
        with pytest.raises(InvalidInput, match=f"over {MAX_MESSAGES}"):
            finished(parse_large(endpoint, body))
    tokens = list(range(200_000))
    for name in ("input", "prompt"):
        seen = request.read({name: tokens})
        assert len(seen.chain) == 1

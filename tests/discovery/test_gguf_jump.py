"""The header reader's jump over a vocabulary, against its exact walk."""

import struct
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magid.discovery.gguf_format import (
    GgufHeader,
    parse_header,
)
from magid.errors import GgufError
from tests.support import gguf_bytes as raw

QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def parse(data: bytes, *, exact: bool = False) -> GgufHeader:
    return parse_header(data, len(data), exact=exact)


def _with_tokens(odd: dict[int, bytes], behind: tuple[bytes, ...] = raw.ENDING) -> bytes:
    tokens, merges = raw.vocabulary(Random(7), 1500, 1300)
    for at, token in odd.items():
        tokens[at] = token
    return raw.model(raw.tokenizer_keys((tokens, merges), behind=behind))


ODD_TOKENS = {
    "a beginning": b"tokenizer.ggml.",
    "a key": b"tokenizer.ggml.merges",
    "general": b"general.name",
    "a whole key": raw.string("tokenizer.ggml.bos_token_id"),
    "a whole key and value": raw.ENDING[0],
    "the whole ending": b"".join(raw.ENDING),
    "zeros": bytes(300),
    "empty": b"",
    "long": b"y" * 70_000,
}
ODD = st.sampled_from(sorted(ODD_TOKENS.values())) | st.binary(max_size=24)
BEHIND = st.lists(
    st.sampled_from([*raw.ENDING, raw.text("other.key", "x"), raw.scalar("a.b", raw.U8, 1)]),
    max_size=4,
    unique=True,
).map(tuple)


@pytest.mark.parametrize("token", ODD_TOKENS.values(), ids=ODD_TOKENS)
@pytest.mark.parametrize("at", [0, 700, 1498, 1499])
def test_a_token_that_looks_like_a_key_changes_nothing(token: bytes, at: int) -> None:
    data = _with_tokens({at: token})
    assert parse(data) == parse(data, exact=True)


@settings(QUIET, max_examples=60)
@given(odd=st.dictionaries(st.integers(0, 1499), ODD, max_size=5), behind=BEHIND)
def test_jump_and_walk_agree(odd: dict[int, bytes], behind: tuple[bytes, ...]) -> None:
    data = _with_tokens(odd, behind)
    header = parse(data)
    assert header == parse(data, exact=True)
    assert header.array_lengths["tokenizer.ggml.merges"] == 1300
    assert header.metadata["qwen3.context_length"] == 40_960


def test_a_second_header_inside_a_token_is_noticed() -> None:
    """It fits to the last byte; but the keys of the real header stand behind its end."""
    tail = b"".join(raw.scalar(f"tokenizer.ggml.fake{i}", raw.U32, i) for i in range(6))
    tail += b"".join(raw.tensor(f"fake{i}", (8,), 0, 32 * i) for i in range(2))
    last = raw.tensor("fake2", (1,), 0, 64)
    data = _with_tokens({1499: tail + last})
    start = data.index(last) + len(last)
    elements = (len(data) - (start + -start % 32) - 64) // 4
    data = data.replace(last, raw.tensor("fake2", (elements,), 0, 64))
    assert parse(data) == parse(data, exact=True)


def test_the_jump_is_taken_and_only_the_walk_sees_a_broken_vocabulary() -> None:
    good = _with_tokens({700: b"unmistakable"})
    broken = good.replace(raw.string("unmistakable"), struct.pack("<Q", 2**40) + b"unmistakable")
    assert parse(broken) == parse(good, exact=True)
    with pytest.raises(GgufError, match="is truncated"):
        parse(broken, exact=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + bytes(64),
        lambda data: data[:-1],
        lambda data: data.replace(b"blk.1.attn_q", b"blk.0.attn_q"),
        lambda data: data.replace(b"quantization_version\x04", b"quantization_version\x0d"),
    ],
    ids=["something behind the data", "truncated", "a tensor twice", "an unknown type"],
)
def test_what_does_not_fit_is_walked(change: Callable[[bytes], bytes]) -> None:
    """A broken vocabulary shows it: a jump would miss it, as the test before this one has it."""
    data = change(_with_tokens({700: b"unmistakable"}))
    broken = data.replace(raw.string("unmistakable"), struct.pack("<Q", 2**40) + b"unmistakable")
    with pytest.raises(GgufError, match=r"at least \d+ bytes are missing in its header"):
        parse(broken)

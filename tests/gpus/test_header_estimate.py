"""The estimate by a header: its figures, and its error against llama-server's own predictions."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from magid.discovery.header_cache import HeaderFacts, read_facts
from magid.discovery.model_shape import ModelShape, shape_of
from magid.gpus.header_estimate import (
    FIXED,
    HeaderEstimate,
    at_most,
    estimate_by_header,
)
from magid.llama.server_shape import ServerShape
from magid.llama.spec import ServerSpec
from magid.servers.processes.backend import ProcessBackend
from tests.support import architectures, ggufs
from tests.support.predictions import open_backend, predicted

MIB = 1 << 20
LLAMA_8B = {
    "general.architecture": "llama",
    "llama.block_count": 32,
    "llama.embedding_length": 4096,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
}
TENSORS = (4932 * MIB, 282 * MIB, 411 * MIB)


def shape(changes: Mapping[str, object], tensors: tuple[int, int, int] = TENSORS) -> ModelShape:
    return shape_of({**LLAMA_8B, **changes}, {"tokenizer.ggml.tokens": 128_256}, tensors)


def test_a_plain_model() -> None:
    """The figures of llama-server are 4650, 4096 and 148 MiB; see the module's docstring."""
    found = estimate_by_header(shape({}), ServerShape(32_768))
    assert found is not None
    compute = FIXED + 4 * 512 * (128_256 // 2 + 8 * 4096)
    assert found == HeaderEstimate(4932 * MIB, 4650 * MIB, 4096 * MIB, compute)
    assert at_most(1000) == 1100


@pytest.mark.parametrize(
    ("changes", "keys", "values"),
    [
        ({}, 32 * 8 * 128, 32 * 8 * 128),
        ({"llama.attention.head_count_kv": (8,) * 4 + (0,) * 28}, 4 * 8 * 128, 4 * 8 * 128),
        ({"llama.attention.head_count_kv": None}, 32 * 32 * 128, 32 * 32 * 128),
        ({"llama.attention.key_length": 192, "llama.attention.value_length": 64},
         32 * 8 * 192, 32 * 8 * 64),
        ({"llama.full_attention_interval": 4}, 8 * 8 * 128, 8 * 8 * 128),
        ({"llama.attention.causal": False}, 0, 0),
        ({"llama.attention.kv_lora_rank": 512, "llama.attention.key_length_mla": 192,
          "llama.attention.key_length": 576}, 32 * 576, 0),
        ({"llama.block_count": 2**40, "llama.attention.head_count_kv": 2**31}, 1 << 50, 1 << 50),
    ],
)  # fmt: skip
def test_what_the_context_keeps(changes: dict[str, object], keys: int, values: int) -> None:
    found = shape(changes)
    assert (found.keys, found.values) == (keys, values)


def test_a_state_counts_for_each_slot() -> None:
    mamba2 = {
        "llama.block_count": 64, "llama.ssm.conv_kernel": 4, "llama.ssm.inner_size": 5120,
        "llama.ssm.state_size": 128, "llama.ssm.group_count": 1,
        "llama.attention.head_count": 0, "llama.attention.head_count_kv": 0,
    }  # fmt: skip
    for slots, expected in ((1, 163), (4, 655)):
        found = estimate_by_header(shape(mamba2), ServerShape(4096, slots))
        assert found is not None
        assert found.context // MIB == expected, "as llama-server says of this model"


def test_types_of_the_cache() -> None:
    small = ServerShape(32_768, key_type="q8_0", value_type="q4_0")
    found = estimate_by_header(shape({}), small)
    assert found is not None
    assert found.context == 2048 * MIB * (34 + 18) // 64
    unknown = estimate_by_header(shape({}), ServerShape(32_768, key_type="x", value_type="f16"))
    assert unknown is not None
    assert unknown.context == 6144 * MIB, "a type that is not known counts as the largest"


def test_a_tied_matrix_is_on_the_devices_too() -> None:
    found = estimate_by_header(shape({}, (4932 * MIB, 282 * MIB, 0)), ServerShape(4096))
    assert found is not None
    assert found.weights == found.device_weights


def test_shards_are_added_up() -> None:
    both = shape({}) + ModelShape(100, 1, 2)
    assert (both.weights, both.embedding, both.output) == (TENSORS[0] + 100, TENSORS[1] + 1,
                                                           TENSORS[2] + 2)  # fmt: skip
    assert both.keys == shape({}).keys


def test_a_header_that_says_nothing() -> None:
    assert estimate_by_header(ModelShape(), ServerShape(4096)) is None


@pytest.fixture
async def backend(llama_server: Path, tmp_path: Path) -> AsyncIterator[ProcessBackend]:
    async with open_backend(llama_server, tmp_path) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "over"),  # by how many percent the cache of the context is too large
    [("llama", 0), ("qwen3", 0), ("gemma2", 100), ("mamba", 0), ("wide", 0)],
)
async def test_against_llama_server(
    backend: ProcessBackend, tmp_path: Path, name: str, over: int
) -> None:
    """Weights are exact, the cache is right or too large, and the whole is never too small."""
    path = tmp_path / "Model.gguf"
    if name == "wide":
        ggufs.write_wide_model(path, name="Wide", width=256, feed=512, layers=8)
    else:
        architectures.write(path, name)
    ctx = 65_536
    spec = ServerSpec("m", 0, 8080, "127.0.0.1", str(path), ctx_size=ctx, parallel=2)
    truth = (await predicted(backend, spec)).host_total
    facts = read_facts(str(path))
    assert isinstance(facts, HeaderFacts)
    found = estimate_by_header(facts.shape, ServerShape(ctx, 2))
    assert found is not None
    assert 0 <= found.weights - truth.model <= MIB, "llama-server rounds down"
    assert truth.context <= found.context <= truth.context * (100 + over) // 100 + MIB
    assert found.on_processor >= truth.total

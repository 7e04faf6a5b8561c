"""Predicted memory of models of real sizes: by llama-server, by the header, and as it is allocated.

The weights are a hole in a sparse file, and the GPU has no memory: it counts only.
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from magid.discovery.header_cache import HeaderFacts, read_facts
from magid.gpus.header_estimate import at_most, estimate_by_header
from magid.llama.server_shape import ServerShape
from magid.llama.spec import ServerSpec
from magid.servers.backend import ServerState
from magid.servers.processes.backend import ProcessBackend
from tests.support import sparse_models
from tests.support.gpus import Gpus, MakeGpus
from tests.support.predictions import kinds_of, open_backend, predicted

pytestmark = pytest.mark.slow

MIB = 1 << 20
# MiB of weights and context on one GPU, by model, tokens of context, and slots, which llama-server
# 0.7.0 predicted in a measurement. They follow from the dimensions; what it computes with does not.
FIGURES = {
    ("llama-8b", 4096, 1): (4650, 512),
    ("llama-8b", 32_768, 1): (4650, 4096),
    ("qwen3-8b", 4096, 1): (4696, 576),
    ("llama-70b", 32_768, 4): (42_331, 10_240),
    ("gemma3-27b", 4096, 1): (16_770, 944),
    ("gemma3-27b", 32_768, 1): (16_770, 3184),
    ("gemma3-27b", 32_768, 4): (16_770, 5056),
    ("qwen3-30b-a3b", 32_768, 1): (18_718, 3072),
    ("deepseek-v2-lite", 32_768, 1): (10_738, 972),
    ("qwen3-next-80b-a3b", 32_768, 1): (49_171, 843),
    ("qwen3-next-80b-a3b", 32_768, 4): (49_171, 1069),
    ("gpt-oss-20b", 32_768, 1): (10_949, 786),
    ("mamba2-2.7b", 4096, 1): (2744, 163),
    ("mamba2-2.7b", 4096, 4): (2744, 655),
}
MOST_COMPUTE = 256 * MIB  # of those above 240 at most, on one GPU
WINDOWED = ("gemma3-27b", "gpt-oss-20b")  # the header does not say which layers keep a window


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sparse")
    return {name: sparse_models.write(folder, name) for name in sparse_models.MODELS}


@pytest.fixture
def gpus(make_gpus: MakeGpus) -> Gpus:
    return make_gpus((81_920, 0), hollow=True)


@pytest.fixture
async def backend(gpus: Gpus, tmp_path: Path) -> AsyncIterator[ProcessBackend]:
    async with open_backend(gpus.llama_server, tmp_path) as made:
        yield made


@pytest.mark.parametrize(("name", "ctx", "slots"), FIGURES)
async def test_predicted(
    backend: ProcessBackend, files: dict[str, Path], name: str, ctx: int, slots: int
) -> None:
    """And the header's estimate has the same weights, and is never too small."""
    spec = ServerSpec("m", 0, 8080, "127.0.0.1", str(files[name]), device="RPC0", ctx_size=ctx,
                      parallel=slots, n_gpu_layers=99)  # fmt: skip
    (device,) = (await predicted(backend, spec)).devices
    need = device.need
    assert (need.model // MIB, need.context // MIB) == FIGURES[name, ctx, slots]
    assert 0 < need.compute <= MOST_COMPUTE
    facts = read_facts(str(files[name]))
    assert isinstance(facts, HeaderFacts)
    found = estimate_by_header(facts.shape, ServerShape(ctx, slots))
    assert found is not None
    assert found.device_weights // MIB == need.model // MIB
    assert at_most(found.on_devices) >= need.total
    if name not in WINDOWED:
        assert found.context // MIB in (need.context // MIB, need.context // MIB + 1)


@pytest.mark.parametrize("name", ["mamba2-2.7b", "llama-8b"])
async def test_allocated(
    backend: ProcessBackend,
    gpus: Gpus,
    files: dict[str, Path],
    free_port: Callable[[], int],
    name: str,
) -> None:
    """llama-server reads all of the file for it, so only two of them, and the smallest ones."""
    spec = ServerSpec("m", 0, free_port(), "127.0.0.1", str(files[name]), device="RPC0",
                      ctx_size=32_768, parallel=1, n_gpu_layers=99)  # fmt: skip
    (device,) = (await predicted(backend, spec)).devices
    assert gpus.fakes[0].memory()["used"] == 0, "a prediction allocates nothing"
    await backend.start(spec)
    assert (await backend.settled(spec.port)).state is ServerState.READY
    assert gpus.fakes[0].held() == kinds_of(device.need)

"""The predicted memory of children is what they then allocate, on GPUs of the tests."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from magid.gpus.memory_table import with_adapters
from magid.llama.spec import ServerSpec
from magid.servers.backend import ServerState
from magid.servers.processes.backend import ProcessBackend
from tests.support import adapting, architectures, drafting
from tests.support.gpus import Gpus, MakeGpus
from tests.support.predictions import kinds_of, open_backend, predicted

pytestmark = pytest.mark.slow

MIB = 1 << 20
CTX = 65_536


@pytest.fixture
def gpus(make_gpus: MakeGpus) -> Gpus:
    return make_gpus((8192, 300), (8192, 0))


@pytest.fixture
async def backend(gpus: Gpus, tmp_path: Path) -> AsyncIterator[ProcessBackend]:
    async with open_backend(gpus.llama_server, tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("architecture", "parallel"),
    [(name, 1) for name in architectures.NAMES] + [(name, 4) for name in architectures.DIFFERENT],
)
async def test_it_is_what_is_allocated(
    backend: ProcessBackend,
    gpus: Gpus,
    tmp_path: Path,
    free_port: Callable[[], int],
    architecture: str,
    parallel: int,
) -> None:
    model = architectures.write(tmp_path / "Model.gguf", architecture)
    spec = ServerSpec("m", 0, free_port(), "127.0.0.1", str(model), device="RPC0", ctx_size=CTX,
                      parallel=parallel, n_gpu_layers=99)  # fmt: skip
    estimate = await predicted(backend, spec)
    (device,) = estimate.devices
    assert gpus.fakes[0].memory()["used"] == 0, "a prediction allocates nothing"
    await backend.start(spec)
    assert (await backend.settled(spec.port)).state is ServerState.READY
    assert gpus.fakes[0].held() == kinds_of(device.need), "each kind is rounded down"
    assert gpus.fakes[1].memory()["used"] == 0
    assert device.name == "RPC0"


@pytest.mark.parametrize("part", ["whole", "trunk"])
async def test_a_draft_is_part_of_it(
    backend: ProcessBackend,
    gpus: Gpus,
    tmp_path: Path,
    free_port: Callable[[], int],
    part: drafting.Part,
) -> None:
    """Layers of the model's own file have a context of their own, a file has weights too."""
    model = drafting.write(tmp_path / "Model.gguf", part)
    beside = None if part == "whole" else drafting.write(tmp_path / "mtp-Model.gguf", "draft")
    plain = ServerSpec("m", 0, free_port(), "127.0.0.1", str(model), device="RPC0", ctx_size=CTX,
                       parallel=1, n_gpu_layers=99)  # fmt: skip
    spec = replace(plain, draft_type="mtp", draft_path=None if beside is None else str(beside))
    (without,) = (await predicted(backend, plain)).devices
    estimate = await predicted(backend, spec)
    (device,) = estimate.devices
    assert device.need.context - without.need.context == 16 * MIB
    await backend.start(spec)
    assert (await backend.settled(spec.port)).state is ServerState.READY
    wanted = kinds_of(device.need)
    for kind, held in gpus.fakes[0].held().items():
        assert 0 <= held - wanted[kind] <= 1, "the sum of two figures, each rounded down"


async def test_adapters_are_part_of_it(
    backend: ProcessBackend,
    gpus: Gpus,
    tmp_path: Path,
    chat_model: Path,
    free_port: Callable[[], int],
) -> None:
    """llama-server's own table leaves them out; magid adds their size, which is what they take."""
    adapter = adapting.write(tmp_path / "adapter.gguf", "XY", rank=8192)
    size = adapter.stat().st_size
    plain = ServerSpec("m", 0, free_port(), "127.0.0.1", str(chat_model), device="RPC0",
                       ctx_size=CTX, parallel=1, n_gpu_layers=99)  # fmt: skip
    spec = replace(plain, lora_paths=(str(adapter),), lora_bytes=size)
    estimate = with_adapters(await predicted(backend, spec), spec.lora_bytes)
    await backend.start(spec)
    assert (await backend.settled(spec.port)).state is ServerState.READY
    held, wanted = gpus.fakes[0].held(), kinds_of(estimate.devices[0].need)
    assert size > 12 * MIB
    assert held["weights"] - wanted["weights"] in (0, 1), "the file has a header besides"
    assert held == wanted | {"weights": held["weights"]}


async def test_what_each_architecture_keeps(backend: ProcessBackend, tmp_path: Path) -> None:
    """A sliding window and a state of fixed size need less than a formula would say."""
    kept = {}
    for name in architectures.DIFFERENT:
        model = architectures.write(tmp_path / f"{name}.gguf", name)
        spec = ServerSpec("m", 0, 8080, "127.0.0.1", str(model), device="RPC0", ctx_size=CTX,
                          parallel=1)  # fmt: skip
        (device,) = (await predicted(backend, spec)).devices
        kept[name] = device.need.context // MIB
    assert kept["llama"] == kept["qwen3"] == 32
    assert kept["llama"] // 2 <= kept["gemma2"] < kept["llama"]
    assert kept["mamba"] == 0


async def test_all_layers_of_a_model_on_two_gpus(backend: ProcessBackend, chat_model: Path) -> None:
    spec = ServerSpec("m", 0, 8080, "127.0.0.1", str(chat_model), ctx_size=CTX)
    estimate = await predicted(backend, spec)
    assert [device.name for device in estimate.devices] == ["RPC0", "RPC1"]
    assert sum(device.need.context for device in estimate.devices) == 32 * MIB
    assert [one.name for one in estimate.host] == ["Host"]
    processor = await predicted(backend, ServerSpec("m", 0, 8080, "127.0.0.1", str(chat_model),
                                                    ctx_size=CTX, device="none"))  # fmt: skip
    assert processor.devices == ()
    assert processor.host_total.context == 32 * MIB

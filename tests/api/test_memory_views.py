"""The answers about memory, from predictions and what is free."""

from dataclasses import replace

import pytest

from magid.api.memory_views import model_memory
from magid.control.prediction_cache import Prediction
from magid.gpus.fitting import Room
from magid.gpus.memory_table import DeviceNeed, Estimate, HostNeed, Need
from magid.llama.spec import ServerSpec

GIB = 1 << 30
SPEC = ServerSpec("m", 0, 8080, "127.0.0.1", "/m.gguf")
HOST = (HostNeed("Host", Need(compute=GIB)),)
ON_GPU = Estimate((DeviceNeed("CUDA0", "A", Need(GIB, GIB, GIB)),), HOST, 4096)
ROOM = Room((), 64 * GIB, 2 * GIB)


def test_without_a_prediction() -> None:
    answer = model_memory(SPEC, Prediction(0.0, problem="cannot"), ROOM, runs=True)
    assert (answer["fits"], answer["why"], answer["source"]) == ("unknown", "cannot", None)
    assert (answer["host"], answer["devices"], answer["predictedAt"]) == (None, [], None)


def test_with_one() -> None:
    answer = model_memory(SPEC, Prediction(0.0, Estimate(host=HOST)), ROOM, runs=False)
    assert answer["fits"] == "yes"
    assert answer["predictedAt"] == "1970-01-01T00:00:00Z"
    assert answer["host"] is not None
    assert (answer["host"]["availableBytes"], answer["host"]["limitBytes"]) == (64 * GIB, 2 * GIB)


@pytest.mark.parametrize(
    ("layers", "estimate", "said"),
    [(None, ON_GPU, "may be on the processor"), (99, ON_GPU, "with these settings"),
     (None, Estimate(host=HOST), "with these settings")],
)  # fmt: skip
def test_a_server_that_runs(layers: int | None, estimate: Estimate, said: str) -> None:
    spec = replace(SPEC, n_gpu_layers=layers)
    answer = model_memory(spec, Prediction(0.0, estimate), ROOM, runs=True)
    assert answer["fits"] == "yes"
    assert answer["why"].endswith(said)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((), 4096), (("--fit", "on"), 4096), (("--fit", "off"), None), (("-fit", "off"), None)],
)
def test_the_context_that_llama_server_would_choose(
    arguments: tuple[str, ...], expected: int | None
) -> None:
    spec = replace(SPEC, extra_args=arguments)
    answer = model_memory(spec, Prediction(0.0, ON_GPU), ROOM, runs=False)
    assert answer["fittingCtxSize"] == expected
    assert answer["why"] == "CUDA0: 3.0 GiB needed, and what is free is not known"

"""The answers about memory, from predictions and what is free."""

from dataclasses import replace

import pytest

from magid.api.memory_views import model_memory
from magid.api.schemas.gpus import ModelMemory, Source
from magid.control.prediction_cache import Prediction
from magid.control.verdicts import deciding, verdict_of, verdict_placed, verdict_running
from magid.gpus.capacity import Capacity
from magid.gpus.fitting import Fits, Room, Verdict
from magid.gpus.memory_table import DeviceNeed, Estimate, HostNeed, Need
from magid.gpus.placing import NoDevice, NoRoom, Question
from magid.llama.placement import PlacedDevice, Placement
from magid.llama.spec import ServerSpec
from magid.servers.backend import initial_state
from tests.support.values import PLACEMENT

GIB = 1 << 30
SPEC = ServerSpec("m", 0, 8080, "127.0.0.1", "/m.gguf")
HOST = (HostNeed("Host", Need(compute=GIB)),)
ON_GPU = Estimate((DeviceNeed("CUDA0", "A", Need(GIB, GIB, GIB)),), HOST, 4096)
ROOM = Room((), 64 * GIB, 2 * GIB)


def test_without_a_prediction() -> None:
    answer = shown(SPEC, Prediction(0.0, problem="cannot"))
    assert (answer["fits"], answer["why"], answer["source"]) == ("unknown", "cannot", None)
    assert (answer["host"], answer["devices"], answer["predictedAt"]) == (None, [], None)


def test_with_one() -> None:
    answer = shown(SPEC, Prediction(0.0, Estimate(host=HOST)))
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
    verdict = verdict_running(initial_state(replace(SPEC, n_gpu_layers=layers)), estimate)
    assert verdict.fits is Fits.YES
    assert verdict.why.endswith(said)


@pytest.mark.parametrize(
    ("placement", "fits", "said"),
    [
        (PLACEMENT, Fits.YES, "RPC0, RPC1"),
        (replace(PLACEMENT, extent="part"), Fits.PART, "RPC0, RPC1 and the processor"),
        (Placement((), 0, "none"), Fits.YES, "the processor"),
    ],
)
def test_a_server_that_has_its_place(placement: Placement, fits: Fits, said: str) -> None:
    running = verdict_running(initial_state(SPEC, placement), ON_GPU)
    assert (running.fits, running.why.endswith(f"with these settings on {said}")) == (fits, True)
    would = verdict_placed(placement)
    assert (would.fits, would.why.startswith(f"it would start on {said}")) == (fits, True)


def test_a_bound_of_its_prompt_cache_is_no_place() -> None:
    bounded = initial_state(SPEC, Placement((), 1, "own", source="unknown", cache_ram=512))
    assert verdict_running(bounded, ON_GPU) == verdict_running(initial_state(SPEC), ON_GPU)


def test_one_that_has_none() -> None:
    assert verdict_placed(NoRoom("needs 2.0 GiB", 2)) == (Verdict(Fits.NO, "it needs 2.0 GiB"))
    assert verdict_placed(NoDevice(("RPC7",))).why == "this machine has no RPC7"


def test_a_prediction_of_one_device_is_shown_for_the_chosen_one() -> None:
    chosen = Placement((PlacedDevice("CUDA1", "CUDA1", 5),), 0, "all", ctx_size=4096)
    known = {
        Question(("CUDA0",), 8192): Prediction(1.0, Estimate(host=HOST)),
        Question(("CUDA0",), 4096): Prediction(2.0, ON_GPU),
    }
    found = deciding(chosen, known)
    assert found.estimate is not None
    assert (found.at, found.estimate.devices[0].name) == (2.0, "CUDA1")
    assert found.estimate.devices[0].need == ON_GPU.devices[0].need


def shown(spec: ServerSpec, prediction: Prediction) -> ModelMemory:
    verdict = verdict_of(prediction, ROOM)
    source: Source | None = None if prediction.estimate is None else "predicted"
    return model_memory(spec, prediction, ROOM, Capacity((), 0), verdict, None, source)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((), 4096), (("--fit", "on"), 4096), (("--fit", "off"), None), (("-fit", "off"), None)],
)
def test_the_context_that_llama_server_would_choose(
    arguments: tuple[str, ...], expected: int | None
) -> None:
    spec = replace(SPEC, extra_args=arguments)
    answer = shown(spec, Prediction(0.0, ON_GPU))
    assert answer["fittingCtxSize"] == expected
    assert answer["why"] == "CUDA0: 3.0 GiB needed, and what is free is not known"

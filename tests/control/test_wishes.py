"""Settings that contradict each other, in the words of the rules."""

import pytest

from magid.control.devices import DeviceList
from magid.control.prediction_cache import Prediction
from magid.control.refusals import unplaced
from magid.control.wishes import FileFacts, renamed, wish_of
from magid.errors import DeviceMissing
from magid.gpus.device import Device, Gpu
from magid.gpus.memory_table import DeviceNeed, Estimate, Need
from magid.llama.arguments import server_argv
from magid.llama.placement import PlacedDevice, Placement
from tests.support.values import UUIDS, spec

FLAGS = frozenset({"--api-key-file", "--device", "--fit", "-lv"})
LISTED = DeviceList(
    (
        Gpu(Device("CUDA0", "CUDA", "A", uuid=UUIDS[0]), (Device("Vulkan0", "Vulkan", "A"),)),
        Gpu(Device("CUDA1", "CUDA", "A", address="0000:02:00.0")),
        Gpu(Device("CUDA2", "CUDA", "A MIG 1g", uuid=UUIDS[1], address="0000:03:00.0")),
        Gpu(Device("CUDA3", "CUDA", "A MIG 1g", address="0000:03:00.0")),
    )
)


@pytest.mark.parametrize(
    ("layers", "offload", "expected"),
    [(None, "part", "part"), (-1, "part", "part"), (10, "part", "all"), (999, "part", "all"),
     (10, "cpu", "cpu")],
)  # fmt: skip
def test_layers_that_are_set_are_not_made_fewer(
    layers: int | None, offload: str, expected: str
) -> None:
    """llama-server fits nothing where the layers are given, and would start as if it had room."""
    wish = wish_of(spec(n_gpu_layers=layers, offload=offload), FileFacts(), 32_768)
    assert wish.offload == expected


def test_ids_where_llama_server_places_the_model() -> None:
    """It takes names only, so magid tells it the names of the GPUs that are meant."""
    found = unplaced(spec(device=f"0000:02:00.0,{UUIDS[0].upper()}"), LISTED, "")
    assert found is not None
    assert found.device_option == "CUDA1,CUDA0"
    mixed = unplaced(spec(device="vulkan0,0000:02:00.0"), LISTED, "")
    assert mixed is not None
    assert mixed.device_option == "Vulkan0,CUDA1"
    argv = server_argv(spec(), "/llama", "/key", FLAGS, found)
    assert argv[argv.index("--device") + 1] == "CUDA1,CUDA0"
    assert "--fit" not in argv, "llama-server fits what it places"


def test_an_id_of_one_gpu_alone_is_its_number_where_it_is_pinned() -> None:
    found = unplaced(spec(device=UUIDS[0]), LISTED, "")
    assert found is not None
    assert (found.device_option, found.environment["CUDA_VISIBLE_DEVICES"]) == ("CUDA0", UUIDS[0])


@pytest.mark.parametrize("device", ["0000:03:00.0", "0000:09:00.0", "CUDA0,0000:03:00.0"])
def test_an_id_of_several_gpus_or_none_is_refused(device: str) -> None:
    with pytest.raises(DeviceMissing) as caught:
        unplaced(spec(device=device), LISTED, "cannot predict the memory")
    assert "is not the id of exactly one GPU" in caught.value.message
    assert "(cannot predict the memory); this machine has CUDA0 (GPU-" in caught.value.message


@pytest.mark.parametrize("device", [None, "none", "CUDA0", "cuda0,CUDA1"])
def test_names_are_left_to_llama_server(device: str | None) -> None:
    assert unplaced(spec(device=device), LISTED, "") is None
    assert unplaced(spec(device=UUIDS[0]), DeviceList(), "it lists nothing") is None


def test_a_prediction_for_devices_by_uuid_has_the_names_of_the_list() -> None:
    ids = ("GPU-01234567-0123-0123-0123-0123456789ab", "GPU-11234567-0123-0123-0123-0123456789ab")
    placed = tuple(PlacedDevice(f"CUDA{n}", ids[n - 1], 0) for n in (1, 2))
    placement = Placement(placed, 0, "all", pins_devices=True, shares=(1, 1))
    there = tuple(DeviceNeed(f"CUDA{n}", "A", Need(model=n)) for n in (0, 1))
    made = renamed(Prediction(0.0, Estimate(there)), placement)
    assert made.estimate is not None
    assert [(one.name, one.need.model) for one in made.estimate.devices] == [
        ("CUDA1", 0), ("CUDA2", 1)
    ]  # fmt: skip

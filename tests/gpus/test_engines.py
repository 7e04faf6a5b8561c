"""One physical GPU is one, whatever number of engines and back ends list it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.gpus.capacity import Holder, capacity_of, freed_by, need_on
from magid.gpus.device import Device, Gpu, gpus_of
from magid.gpus.engines import together, united
from magid.llama.placement import PlacedDevice, Placement
from tests.support.values import UUIDS

GIB = 1 << 30
CARD, OTHER = "NVIDIA GeForce RTX 4090", "NVIDIA RTX A2000"


def cuda(number: int, card: str = CARD, **more: str) -> Device:
    return Device(f"CUDA{number}", "CUDA", card, 24 * GIB, 20 * GIB, **more)  # type: ignore[arg-type]  # a table of test values


def vulkan(number: int, card: str = CARD, **more: str) -> Device:
    return Device(f"Vulkan{number}", "Vulkan", card, 24 * GIB, 20 * GIB, **more)  # type: ignore[arg-type]  # a table of test values


def names(lists: list[tuple[Gpu, ...]]) -> list[dict[str, str]]:
    return [{gpu.device.name: gpu.device.id for gpu in gpus} for gpus in lists]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([cuda(0, uuid=UUIDS[0])], [vulkan(0)], [{"CUDA0": UUIDS[0]}, {"Vulkan0": UUIDS[0]}]),
        ([vulkan(0)], [cuda(0, uuid=UUIDS[0])], [{"Vulkan0": UUIDS[0]}, {"CUDA0": UUIDS[0]}]),
        ([cuda(0)], [cuda(0)], [{"CUDA0": "CUDA0"}, {"CUDA0": "CUDA0"}]),
        ([cuda(0)], [vulkan(0)], [{"CUDA0": "CUDA0"}, {"Vulkan0": "CUDA0"}]),
        ([cuda(0)], [vulkan(0, OTHER)], [{"CUDA0": "CUDA0"}, {"Vulkan0": "Vulkan0"}]),
        (
            [cuda(0, address="0000:01:00.0"), cuda(1, address="0000:02:00.0")],
            [vulkan(0, address="0000:02:00.0"), vulkan(1, address="0000:01:00.0")],
            [
                {"CUDA0": "0000:01:00.0", "CUDA1": "0000:02:00.0"},
                {"Vulkan0": "0000:02:00.0", "Vulkan1": "0000:01:00.0"},
            ],
        ),
        (
            [cuda(0), cuda(1)],
            [vulkan(0), vulkan(1)],
            [{"CUDA0": "CUDA0", "CUDA1": "CUDA1"}, {"Vulkan0": "CUDA0", "Vulkan1": "CUDA1"}],
        ),
        (
            [Device("RPC0", "RPC", "10.0.0.2:1", remote_id="10.0.0.2:1")],
            [Device("RPC1", "RPC", "10.0.0.2:1", remote_id="10.0.0.2:1")],
            [{"RPC0": "10.0.0.2:1"}, {"RPC1": "10.0.0.2:1"}],
        ),
        ([], [cuda(0)], [{}, {"CUDA0": "CUDA0"}]),
    ],
)
def test_one_id_for_one_gpu(
    first: list[Device], second: list[Device], expected: list[dict[str, str]]
) -> None:
    assert names(united([gpus_of(first), gpus_of(second)])) == expected


def test_all_gpus_once_with_all_their_names() -> None:
    first = gpus_of([cuda(0, uuid=UUIDS[0])])
    second = gpus_of([vulkan(0), vulkan(1, OTHER)])
    found = together([first, second])
    assert [gpu.names for gpu in found] == [("CUDA0", "Vulkan0"), ("Vulkan1",)]
    assert together([first]) == united([first])[0]


def test_what_one_engine_holds_counts_for_the_other() -> None:
    """Also of a server that was placed before the other engine gave the GPU a better id."""
    first, second = united([gpus_of([cuda(0, uuid=UUIDS[0])]), gpus_of([vulkan(0)])])
    for known in (UUIDS[0], "Vulkan0"):
        placement = Placement((PlacedDevice("Vulkan0", known, 9 * GIB),), 0, "all")
        holder = Holder("a", 8080, placement, is_settled=False)
        for gpus in (first, second):
            (room,) = capacity_of(gpus, 0, [holder], 0).devices
            assert room.room == 11 * GIB
            assert need_on(gpus[0], placement) == 9 * GIB
            assert freed_by([holder], gpus) == {"a": {UUIDS[0]: 9 * GIB}}


DEVICES = st.builds(
    Device,
    st.sampled_from(["CUDA0", "CUDA1", "Vulkan0", "Vulkan1"]),
    st.just(""),
    st.sampled_from([CARD, OTHER]),
    uuid=st.none() | st.sampled_from(UUIDS),
    address=st.none() | st.sampled_from(["0000:01:00.0", "0000:02:00.0"]),
)


@given(st.lists(st.lists(DEVICES, max_size=4, unique_by=lambda device: device.name), max_size=3))
def test_no_gpu_of_an_engine_is_lost(lists: list[list[Device]]) -> None:
    from msgspec.structs import replace

    named = [[replace(d, backend=d.name.rstrip("01")) for d in devices] for devices in lists]
    gpus = [gpus_of(devices) for devices in named]
    made = united(gpus)
    assert [[gpu.names for gpu in found] for found in made] == [
        [gpu.names for gpu in listed] for listed in gpus
    ]
    for listed, found in zip(gpus, made, strict=True):
        for before, after in zip(listed, found, strict=True):
            assert before.device.id in after.ids
    everything = {name for devices in named for name in (device.name for device in devices)}
    assert {name for gpu in together(gpus) for name in gpu.names} == everything

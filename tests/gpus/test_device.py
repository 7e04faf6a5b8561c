"""Which devices are one physical GPU."""

from hypothesis import given
from hypothesis import strategies as st

from magid.gpus.device import Device, gpus_of


def device(name: str, description: str = "NVIDIA RTX 4090", **more: str) -> Device:
    return Device(name, name.rstrip("0123456789"), description, **more)  # type: ignore[arg-type]  # only texts


def names(*devices: Device) -> list[tuple[str, ...]]:
    return [gpu.names for gpu in gpus_of(devices)]


def test_one_gpu_by_two_back_ends() -> None:
    amd = "AMD Radeon RX 7900 XTX"
    assert names(device("Vulkan0"), device("CUDA0")) == [("CUDA0", "Vulkan0")]
    assert names(device("ROCm0", amd), device("Vulkan0", f"{amd} (RADV NAVI31)")) == [
        ("ROCm0", "Vulkan0")
    ]


def test_two_equal_gpus_stay_two() -> None:
    assert names(device("CUDA0"), device("CUDA1")) == [("CUDA0",), ("CUDA1",)]
    assert names(device("CUDA0"), device("CUDA1"), device("Vulkan0"), device("Vulkan1")) == [
        ("CUDA0", "Vulkan0"), ("CUDA1", "Vulkan1"),
    ]  # fmt: skip
    # One is hidden from CUDA (CUDA_VISIBLE_DEVICES), which Vulkan ignores.
    assert names(device("CUDA0"), device("Vulkan0"), device("Vulkan1")) == [
        ("CUDA0", "Vulkan0"), ("Vulkan1",),
    ]  # fmt: skip


def test_addresses_count_more_than_names() -> None:
    one, two = "0000:01:00.0", "0000:41:00.0"
    crossed = [
        device("CUDA0", address=one), device("CUDA1", address=two),
        device("Vulkan0", address=two), device("Vulkan1", address=one),
    ]  # fmt: skip
    assert names(*crossed) == [("CUDA0", "Vulkan1"), ("CUDA1", "Vulkan0")]
    assert names(device("CUDA0", "GB10", address=one), device("Vulkan0", "Tegra", address=one)) == [
        ("CUDA0", "Vulkan0")
    ]


def test_parts_are_gpus_of_their_own() -> None:
    uuids = [f"MIG-0000000{n}-0000-0000-0000-000000000000" for n in (1, 2)]
    parts = [
        device(f"CUDA{n}", "NVIDIA A100 MIG 1g.5gb", address="0000:01:00.0", uuid=uuid)
        for n, uuid in enumerate(uuids)
    ]
    whole = device("Vulkan0", "NVIDIA A100", address="0000:01:00.0")
    assert names(*parts, whole) == [("CUDA0",), ("CUDA1",), ("Vulkan0",)]
    assert [gpu.device.id for gpu in gpus_of(parts)] == uuids


def test_other_machines_are_never_this_one() -> None:
    assert names(device("CUDA0", "same"), device("RPC0", "same")) == [("CUDA0",), ("RPC0",)]


DEVICES = st.lists(
    st.builds(
        lambda backend, number, text, address: device(f"{backend}{number}", text, address=address),
        st.sampled_from(["CUDA", "ROCm", "Vulkan", "RPC"]),
        st.integers(0, 3),
        st.sampled_from(["A", "B", "A (x)", "A MIG 1g"]),
        st.sampled_from([None, "0000:01:00.0", "0000:02:00.0"]),
    ),
    unique_by=lambda one: one.name,
)


@given(DEVICES)
def test_no_device_is_lost_or_counted_twice(devices: list[Device]) -> None:
    found = gpus_of(devices)
    assert sorted(name for gpu in found for name in gpu.names) == sorted(d.name for d in devices)
    for gpu in found:
        backends = [d.backend for d in (gpu.device, *gpu.same)]
        assert len(set(backends)) == len(backends)

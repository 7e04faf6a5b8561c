"""Whether a server has room: the place without room decides, and says its figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.gpus.device import Device, Gpu
from magid.gpus.fitting import RESERVE, Fits, Room, Verdict, free_on, judge
from magid.gpus.memory_table import DeviceNeed, Estimate, HostNeed, Need

MIB, GIB = 1 << 20, 1 << 30


def gpu(name: str, free: int | None, *same: str, integrated: bool | None = None) -> Gpu:
    others = tuple(Device(n, n[:-1], "A", 64 * GIB, free) for n in same)
    return Gpu(Device(name, name[:-1], "A", 64 * GIB, free, integrated), others)


def estimate(host: int = 0, **devices: int) -> Estimate:
    needs = tuple(DeviceNeed(name, "A", Need(model=need)) for name, need in devices.items())
    return Estimate(needs, (HostNeed("Host", Need(compute=host)),))


def judged(of: Estimate, *gpus: Gpu, host: int = 64 * GIB, limit: int | None = None) -> Verdict:
    return judge(of, Room(gpus, host, limit))


@pytest.mark.parametrize(
    ("need", "free", "fits", "why"),
    [
        (8 * GIB, 9 * GIB, Fits.YES, "CUDA0: 8.0 GiB needed, 9.0 GiB free"),
        (8 * GIB, 9 * GIB - 1, Fits.TIGHT, "free, which leaves less than 1.0 GiB"),
        (8 * GIB, 8 * GIB, Fits.TIGHT, "CUDA0: 8.0 GiB needed, 8.0 GiB free, which leaves"),
        (8 * GIB + 1, 8 * GIB, Fits.NO, "CUDA0: 8.0 GiB needed, 8.0 GiB free"),
        (1, None, Fits.UNKNOWN, "CUDA0: 1 B needed, and what is free is not known"),
    ],
)
def test_one_gpu(need: int, free: int | None, fits: Fits, why: str) -> None:
    verdict = judged(estimate(CUDA0=need), gpu("CUDA0", free))
    assert verdict.fits is fits
    assert why in verdict.why


def test_the_place_without_room_decides() -> None:
    of = estimate(host=2 * GIB, CUDA0=8 * GIB, CUDA1=8 * GIB)
    wide, none = gpu("CUDA0", 30 * GIB), gpu("CUDA1", 4 * GIB)
    assert judged(of, wide, none) == (Verdict(Fits.NO, "CUDA1: 8.0 GiB needed, 4.0 GiB free"))
    assert judged(of, wide).why == "CUDA1: 8.0 GiB needed, and what is free is not known"
    assert judged(of, wide, gpu("CUDA1", 9 * GIB), host=GIB) == (
        Verdict(Fits.NO, "the machine's memory: 2.0 GiB needed, 1.0 GiB free")
    )


def test_a_gpu_of_two_back_ends_has_its_memory_once() -> None:
    of = estimate(CUDA0=5 * GIB, Vulkan0=5 * GIB)
    verdict = judged(of, gpu("CUDA0", 8 * GIB, "Vulkan0"))
    assert verdict == Verdict(Fits.NO, "CUDA0 = Vulkan0: 10.0 GiB needed, 8.0 GiB free")


def test_an_integrated_gpu_uses_the_machines_memory() -> None:
    of = estimate(host=GIB, Vulkan0=6 * GIB)
    shared = gpu("Vulkan0", 8 * GIB, integrated=True)
    assert judged(of, shared, host=8 * GIB).fits is Fits.YES
    assert judged(of, shared, host=6 * GIB).why == (
        "the machine's memory: 7.0 GiB needed, 6.0 GiB free"
    )
    assert judged(of, gpu("Vulkan0", 8 * GIB, integrated=False), host=6 * GIB).fits is Fits.YES


def test_a_limit_of_its_own() -> None:
    of = estimate(host=4 * GIB)
    assert judged(of, limit=4 * GIB).fits is Fits.YES, "the limit is all its own"
    assert judged(of, limit=3 * GIB) == (
        Verdict(Fits.NO, "memoryMax: 4.0 GiB needed, 3.0 GiB allowed")
    )


def test_what_is_free() -> None:
    gpus = (gpu("CUDA0", 5, "Vulkan1"), gpu("CUDA1", 7))
    assert [free_on(n, gpus) for n in ("CUDA1", "Vulkan1", "ROCm0")] == [7, 5, None]


@given(st.integers(0, 20 * GIB), st.integers(0, 20 * GIB), st.integers(0, 20 * GIB))
def test_more_room_is_never_worse(need: int, free: int, more: int) -> None:
    order = list(Fits)
    before, after = (
        order.index(judged(estimate(CUDA0=need), gpu("CUDA0", room)).fits)
        for room in (free, free + more)
    )
    assert after <= before
    assert (order[after] is Fits.YES) == (need + RESERVE <= free + more)

"""Reads what llama-server prints of its devices: recorded outputs, odd values, any text.

`listings` has outputs of real llama-servers, the paths in them shortened: none and rpc of 0.7.0 on
this project's test machines, the others from reports of users.
"""

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.gpus.device import Device
from magid.gpus.listing import devices_in, last_line, silent_in

MIB = 1 << 20
LISTINGS = Path(__file__).parent / "listings"


def device(name: str, description: str, total: int, free: int, integrated: bool | None) -> Device:
    backend = name.rstrip("0123456789")
    return Device(name, backend, description, total * MIB, free * MIB, integrated)


RTX, PRO = "NVIDIA GeForce RTX 3080 Ti", "NVIDIA RTX PRO 4000 Blackwell SFF Edition"
APU, PIPE = "AMD Radeon Graphics (RADV GFX1151)", "llvmpipe (LLVM 21.1.8, 256 bits)"
RECORDED: dict[str, list[Device]] = {
    "none": [],
    "rpc": [
        device("RPC0", "127.0.0.1:37321", 8192, 7892, None),
        device("RPC1", "127.0.0.1:40523", 24576, 24576, None),
    ],
    "two-nvidia": [
        device("CUDA0", RTX, 11909, 11650, None),
        device("CUDA1", PRO, 24026, 23795, None),
    ],
    "vulkan": [device("Vulkan0", "NVIDIA GeForce RTX 2060", 6144, 5136, False)],
    "integrated": [device("Vulkan0", APU, 32106, 32106, True)],  # 55372 were free, it said
    "llvmpipe": [device(f"Vulkan{n}", PIPE, 24152, 22459, None) for n in (0, 1)],
}


def test_all_recorded_outputs_are_tried() -> None:
    assert {path.stem for path in LISTINGS.iterdir()} == RECORDED.keys()


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_outputs(name: str) -> None:
    found = devices_in((LISTINGS / f"{name}.txt").read_text())
    assert found is not None
    assert list(found) == RECORDED[name]


def listed(line: str, *before: str) -> tuple[Device, ...]:
    found = devices_in("\n".join([*before, "Available devices:", f"  {line}"]))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("total", "free", "expected"),
    [
        ("0", "0", (None, None)),
        ("0", "100", (None, None)),
        ("N/A", "N/A", (None, None)),
        ("100", "N/A", (100 * MIB, None)),
        ("100", "200", (100 * MIB, 100 * MIB)),
        ("100", "0", (100 * MIB, 0)),
        ("18446744073709551615", "1", (None, None)),
        ("٣", "1", (None, None)),
    ],
)
def test_odd_memory(total: str, free: str, expected: tuple[int | None, int | None]) -> None:
    (found,) = listed(f"CUDA0: GB10 ({total} MiB, {free} MiB free)")
    assert (found.total, found.free) == expected


@pytest.mark.parametrize(
    "line",
    [
        "BLAS: OpenBLAS (0 MiB, 0 MiB free)",
        "CPU: AMD EPYC (64000 MiB, 32000 MiB free)",
        "(none)",
        "CUDA0: without memory",
    ],
)
def test_what_is_no_gpu(line: str) -> None:
    assert listed(line) == ()


def test_no_list() -> None:
    text = "CUDA0: NVIDIA (1 MiB, 1 MiB free)\nerror while handling argument\n\n"
    assert devices_in(text) is None
    assert last_line(text) == "error while handling argument"
    assert last_line(" \n") == "it printed nothing"


MIG = "MIG-1a2b3c4d-0000-1111-2222-333344445555"


@pytest.mark.parametrize(
    ("said", "address", "uuid"),
    [
        ("  Device 0: A100, PCI 00000000:41:00.0", "0000:41:00.0", None),
        ("0.00.4 I   Device 0: A100, 0000:C1:00.0", "0000:c1:00.0", None),
        (f"  Device 0: A100 MIG 1g.5gb, {MIG}", None, MIG),
        ("  Device 1: another, 0000:41:00.0", None, None),
    ],
)
def test_identity(said: str, address: str | None, uuid: str | None) -> None:
    (found,) = listed(
        "CUDA0: NVIDIA A100 (4864 MiB, 4800 MiB free)",
        "ggml_cuda_init: found 2 CUDA devices:",
        said,
    )
    assert (found.address, found.uuid) == (address, uuid)


def test_a_name_twice_is_one_device() -> None:
    found = listed("CUDA0: A (1 MiB, 1 MiB free)\n  CUDA0: B (2 MiB, 2 MiB free)")
    assert [device.description for device in found] == ["A"]


@given(st.text())
def test_any_text(text: str) -> None:
    devices_in(text)
    last_line(text)


LINES = [line for path in LISTINGS.glob("*.txt") for line in path.read_text().splitlines()]


@given(st.lists(st.sampled_from(LINES) | st.text(max_size=40)), st.randoms())
def test_mixed_and_broken_lines(lines: list[str], random: Random) -> None:
    text = "\n".join(["Available devices:", *lines])
    cut = random.randrange(len(text) + 1)
    for part in (text, text[:cut] + text[cut + 1 :]):
        found = devices_in(part) or ()
        assert len({device.name for device in found}) == len(found)
        for one in found:
            assert one.free is None or (one.total is not None and 0 <= one.free <= one.total)
            assert one.total is None or one.total > 0


def test_devices_of_configured_rpc_servers_have_lasting_ids() -> None:
    """Their names follow the order of the servers, and one server may have several devices."""
    output = """\
cannot reach the RPC server 10.0.0.4:50052: Connection refused
Available devices:
  RPC0: 10.0.0.2:50052 (8192 MiB, 7892 MiB free)
  RPC1: 10.0.0.2:50052 (8192 MiB, 7892 MiB free)
  RPC2: 10.0.0.3:50052 (8192 MiB, 7892 MiB free)
  RPC3: 10.0.0.9:50052 (8192 MiB, 7892 MiB free)
"""
    found = devices_in(output, ("10.0.0.2:50052", "10.0.0.3:50052"))
    assert found is not None
    assert [device.id for device in found] == [
        *("10.0.0.2:50052-0of2", "10.0.0.2:50052-1of2", "10.0.0.3:50052", "RPC3")
    ]
    assert silent_in(output) == ("cannot reach the RPC server 10.0.0.4:50052: Connection refused",)

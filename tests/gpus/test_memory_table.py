"""Reads llama-server's prediction of its memory: recorded outputs, odd rows, any text.

`tables` has outputs of llama-server 0.7.0 up to the line where the prediction ends, with its paths
shortened: on processors, and on fake GPUs of 1500 MiB and more.
"""

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.gpus.memory_table import DeviceNeed, Estimate, HostNeed, Need, estimate_in

MIB = 1 << 20
TABLES = Path(__file__).parent / "tables"
HEAD = "x: | memory breakdown [MiB] | total   free    self   model   context   compute |"


def need(model: int, context: int, compute: int) -> Need:
    return Need(model * MIB, context * MIB, compute * MIB)


def rpc(number: int, port: int, of: Need) -> DeviceNeed:
    return DeviceNeed(f"RPC{number}", f"127.0.0.1:{port}", of)


def host(*figures: int) -> HostNeed:
    return HostNeed("Host", need(*figures))


RECORDED = {
    "processor": Estimate((), (host(0, 2, 5),)),
    "repacked": Estimate((), (host(0, 1, 3), HostNeed("CPU_REPACK", Need()))),
    "large": Estimate((rpc(0, 50161, need(4650, 4096, 148)),), (host(281, 0, 64),)),
    "two-rpc": Estimate(
        (rpc(0, 39629, need(0, 1, 18)), rpc(1, 33271, need(0, 1, 17))), (host(0, 0, 17),)
    ),
    "reduced": Estimate((rpc(0, 33657, need(0, 512, 1025)),), (host(0, 0, 1024),), 323_584),
    "searched": Estimate((rpc(0, 36333, need(0, 1, 3)),), (host(0, 0, 2),)),
    "damaged": None,
}


def test_every_recording_is_here() -> None:
    assert {path.stem for path in TABLES.iterdir()} == set(RECORDED)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded(name: str) -> None:
    assert estimate_in((TABLES / f"{name}.txt").read_text().splitlines()) == RECORDED[name]


def test_sums() -> None:
    estimate = Estimate(host=(host(1, 2, 3), HostNeed("AMX", need(10, 20, 30))))
    assert estimate.host_total == need(11, 22, 33)
    assert estimate.host_total.total == 66 * MIB
    assert Estimate().host_total == Need()


ONE = need(1, 2, 3)
VULKAN = "|   - Vulkan0 (llvmpipe (LLVM 21.1.8, 256 bits)) | 9 = -5 + (6 = 1 + 2 + 3) + -3 |"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (VULKAN, DeviceNeed("Vulkan0", "llvmpipe (LLVM 21.1.8, 256 bits)", ONE)),
        ("|   - ROCm0 (A) | 0 = 0 + (6 = 1 + 2 + 3) + -6 |", DeviceNeed("ROCm0", "A", ONE)),
        ("|   - AMX | 6 = 1 + 2 + 3 |", HostNeed("AMX", ONE)),
        ("|   - AMX | 6 = 1 + 2 |", None),
        ("|   - AMX | 6 = 1 + 2 + x |", None),
        ("|   - AMX | 6 = 1 + 2 + ٣ |", None),
        ("|   - AMX | 6 = 1 + 2 + 9999999999999 |", None),
        ("|   - AMX | 6 = 1 + -2 + 3 |", None),
        ("AMX | 6 = 1 + 2 + 3 |", None),
    ],
)  # fmt: skip
def test_rows(row: str, expected: DeviceNeed | HostNeed | None) -> None:
    found = estimate_in([HEAD, row])
    assert (found and [*found.devices, *found.host]) == (expected and [expected])


def test_rows_before_the_table_or_in_another_one() -> None:
    one, other = ("|   - Host | 1 = 1 + 0 + 0 |", "|   - Host | 2 = 2 + 0 + 0 |")
    assert estimate_in([one]) is None
    assert estimate_in([HEAD, HEAD, one]) is None
    assert estimate_in([HEAD, one, other, HEAD, other]) == Estimate((), (host(1, 0, 0),))


def test_a_draft_counts_too() -> None:
    """As llama-server 0.7.0 prints it: a table for the model, one for the draft."""
    own = (
        "|   - RPC0 (127.0.0.1:1) |  4096 = 4096 + (  97 =     0 +      32 +      65) + -97 |",
        "|   - Host               |                   64 =     0 +       0 +      64        |",
    )
    drafts = (
        "operator(): getting device memory data for the extra model at a context size of 65536:",
        HEAD,
        "|   - RPC0 (127.0.0.1:1) |  4096 = 4096 + (  81 =     1 +      16 +      64) + -81 |",
        "|   - RPC1 (127.0.0.1:2) |  4096 = 4096 + (   2 =     0 +       2 +       0) +  -2 |",
        "|   - Host               |                   64 =     0 +       0 +      64        |",
    )
    estimate = estimate_in([HEAD, *own, *drafts, HEAD, *own, *drafts])
    assert estimate == Estimate(
        (rpc(0, 1, need(1, 48, 129)), rpc(1, 2, need(0, 2, 0))), (host(0, 0, 128),),
        draft=147 * MIB,
    )  # fmt: skip
    plain = estimate_in([HEAD, *own])
    assert plain is not None
    assert (plain.draft, plain.rounding, estimate.rounding) == (None, 3 * MIB, 6 * MIB)


LINES = [line for path in TABLES.glob("*.txt") for line in path.read_text().splitlines()]


@given(st.lists(st.sampled_from(LINES) | st.text(max_size=60)), st.randoms())
def test_mixed_and_broken_lines(lines: list[str], random: Random) -> None:
    text = "\n".join([HEAD, *lines])
    cut = random.randrange(len(text) + 1)
    for part in (text, text[:cut] + text[cut + 1 :]):
        found = estimate_in(part.splitlines())
        if found is None:
            continue
        names = [*(one.name for one in found.devices), *(one.name for one in found.host)]
        assert 0 < len(names) <= 256
        assert found.host_total.total >= 0
        assert all(one.need.total >= 0 for one in found.devices)

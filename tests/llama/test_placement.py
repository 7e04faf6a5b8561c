"""Where a server runs: what llama-server is told of it, and the text that a unit keeps."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.errors import InvalidInput
from magid.llama.arguments import child_environment, prediction_argv, server_argv
from magid.llama.placement import PlacedDevice, Placement, checked, parse
from magid.llama.spec import ServerSpec
from tests.support.values import PLACEMENT, UUIDS

SPEC = ServerSpec("demo", 0, 8080, "127.0.0.1", "/models/demo.gguf", n_gpu_layers=20)
FLAGS = frozenset({"--api-key-file", "--n-gpu-layers", "--ctx-size", "--device"})
FLAGS |= {"--tensor-split", "--fit", "-lv"}
BY_UUID = replace(
    PLACEMENT,
    devices=(PlacedDevice("CUDA3", UUIDS[0], 5), PlacedDevice("CUDA1", UUIDS[1], 5)),
)


def options(spec: ServerSpec, placement: Placement | None) -> list[str]:
    return server_argv(spec, "/llama", "/key", FLAGS, placement)[11:]


def test_what_was_decided_happens_or_fails() -> None:
    assert options(SPEC, PLACEMENT) == [
        *("--n-gpu-layers", "999", "--device", "RPC0,RPC1", "--ctx-size", "8192"),
        *("--tensor-split", "667,333", "--fit", "off"),
    ]


def test_without_a_placement_llama_server_chooses() -> None:
    assert options(SPEC, None) == ["--n-gpu-layers", "20"]


def test_what_a_placement_leaves_open_is_the_users() -> None:
    own = Placement((), 0, "own")
    assert options(replace(SPEC, device="CUDA1"), own) == [
        *("--n-gpu-layers", "20", "--device", "CUDA1", "--fit", "off")
    ]
    fitted = replace(SPEC, extra_args=("--fit", "on"))
    assert options(fitted, own) == ["--n-gpu-layers", "20", "--fit", "on"]


def test_on_the_processor() -> None:
    nowhere = Placement((), 0, "none", pins_devices=True)
    assert options(SPEC, nowhere)[2:4] == ["--device", "none"]


def test_in_part_llama_server_fits_what_it_can() -> None:
    part = Placement(PLACEMENT.devices, 0, "part", pins_devices=True, fit_target=512)
    argv = server_argv(SPEC, "/llama", "/key", FLAGS | {"--fit-target"}, part)
    assert argv[-4:] == ["--fit", "on", "--fit-target", "512"]


def test_the_bound_of_a_prompt_cache() -> None:
    bounded = replace(PLACEMENT, cache_ram=0)
    argv = server_argv(SPEC, "/llama", "/key", FLAGS | {"--cache-ram"}, bounded)
    assert argv[-6:-4] == ["--cache-ram", "0"]
    assert options(SPEC, bounded) == options(SPEC, PLACEMENT), "an older one has no such cache"


def test_the_bound_alone() -> None:
    """All else is as without a placement: llama-server may fit its memory by itself."""
    alone = Placement((), 1, "own", source="unknown", cache_ram=512)
    argv = server_argv(SPEC, "/llama", "/key", FLAGS | {"--cache-ram"}, alone)
    assert argv[11:] == [*options(SPEC, None), "--cache-ram", "512"]
    assert options(SPEC, alone) == options(SPEC, None), "an older one has no such cache"
    assert child_environment({}, alone) == child_environment({})
    assert [one.decides_place for one in (alone, PLACEMENT, BY_UUID)] == [False, True, True]
    assert replace(alone, pins_devices=True).decides_place


def test_a_unit_of_an_older_magid() -> None:
    fields = json.loads(PLACEMENT.text)
    del fields["cache_ram"], fields["host_later"]
    assert parse(json.dumps(fields)) == PLACEMENT


def test_a_program_without_the_option() -> None:
    with pytest.raises(InvalidInput, match="does not know --tensor-split"):
        server_argv(SPEC, "/llama", "/key", FLAGS - {"--tensor-split"}, PLACEMENT)


def test_a_prediction_has_the_same_options() -> None:
    argv = prediction_argv(SPEC, "/llama", FLAGS, PLACEMENT)
    assert argv[5:-4] == options(SPEC, PLACEMENT)
    assert argv[-4:] == ["--fit", "on", "-lv", "4"], "the last one counts"


def test_devices_with_a_uuid_are_chosen_by_it() -> None:
    """Their numbers change when a GPU falls off the bus; those of chosen ones begin at 0."""
    assert options(SPEC, BY_UUID)[2:4] == ["--device", "CUDA0,CUDA1"]
    environment = child_environment({"CUDA_VISIBLE_DEVICES": "5", "PATH": "/bin"}, BY_UUID)
    assert environment == {
        "PATH": "/bin",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(UUIDS),
    }
    mixed = replace(BY_UUID, devices=(BY_UUID.devices[0], PLACEMENT.devices[0]))
    assert (mixed.uuids, mixed.device_option) == ((), "CUDA3,RPC0")


@pytest.mark.parametrize(
    "placement",
    [
        *(PLACEMENT, BY_UUID, Placement((), 0, "none")),
        Placement((), 1, "own", source="unknown", cache_ram=512, host_later=1),
    ],
    ids=repr,
)
def test_the_text_of_a_unit(placement: Placement) -> None:
    assert parse(placement.text) == placement


@given(st.text() | st.recursive(st.none() | st.integers(), st.lists).map(json.dumps))
def test_any_other_text_is_none(text: str) -> None:
    assert parse(text) is None


def test_a_field_that_is_not_known_is_of_another_version() -> None:
    changed = json.loads(PLACEMENT.text) | {"new": 1}
    assert parse(json.dumps(changed)) is None
    with pytest.raises(InvalidInput, match="cannot use placement: it should have exactly"):
        checked(changed)


@pytest.mark.parametrize(
    ("ids", "remote", "names"),
    [
        (["10.0.0.2:1"], ("10.0.0.2:1",), "RPC0"),
        (["10.0.0.2:1", "10.0.0.3:1"], ("10.0.0.2:1", "10.0.0.3:1"), "RPC0,RPC1"),
        (["10.0.0.2:1-1of2"], ("10.0.0.2:1",), "RPC1"),
        (["10.0.0.2:1-1of2", "10.0.0.3:1"], ("10.0.0.2:1", "10.0.0.3:1"), "RPC1,RPC2"),
        (["RPC5"], (), "RPC5"),  # of a llama-server that knows of it by itself
    ],
)
def test_rpc_servers(ids: list[str], remote: tuple[str, ...], names: str) -> None:
    """llama-server numbers the devices of those that it is told of, and is told of no other."""
    devices = tuple(PlacedDevice("RPC5", one, 1) for one in ids)
    placement = Placement(devices, 0, "all", pins_devices=True)
    assert (placement.remote, placement.device_option) == (remote, names)
    argv = server_argv(SPEC, "/llama", "/key", FLAGS | {"--rpc"}, placement)
    assert ("--rpc" in argv) == bool(remote)
    if remote:
        assert argv.index("--rpc") < argv.index("--device")
        assert argv[argv.index("--rpc") + 1] == ",".join(remote)
        with pytest.raises(InvalidInput, match="rpc_servers"):
            server_argv(SPEC, "/llama", "/key", FLAGS, placement)
    assert parse(placement.text) == placement

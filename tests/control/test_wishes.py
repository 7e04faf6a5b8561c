"""Settings that contradict each other, in the words of the rules."""

import pytest

from magid.control.devices import DeviceList
from magid.control.refusals import refuse_ids
from magid.control.wishes import FileFacts, wish_of
from magid.errors import DeviceMissing
from magid.gpus.device import Device, Gpu
from tests.support.values import UUIDS, spec

LISTED = DeviceList(
    (
        Gpu(Device("CUDA0", "CUDA", "A", uuid=UUIDS[0])),
        Gpu(Device("CUDA1", "CUDA", "A", address="0000:02:00.0")),
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
    device = f"{UUIDS[0]},0000:02:00.0"
    with pytest.raises(DeviceMissing) as caught:
        refuse_ids(spec(device=device), LISTED, "cannot predict the memory")
    assert caught.value.message.startswith(
        f"cannot start 'a': its setting device has the id {UUIDS[0]}, 0000:02:00.0, and "
    )
    assert caught.value.message.endswith("(cannot predict the memory); set device=CUDA0,CUDA1")


@pytest.mark.parametrize("device", [None, "none", "CUDA0", "cuda0,CUDA1"])
def test_names_are_left_to_llama_server(device: str | None) -> None:
    refuse_ids(spec(device=device), LISTED, "")
    refuse_ids(spec(device=UUIDS[0]), DeviceList(), "it lists nothing")

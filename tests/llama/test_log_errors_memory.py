"""Which reasons of a failed start are a device's refusal of memory."""

import pytest

from magid.llama.log_errors import is_out_of_memory


@pytest.mark.parametrize(
    ("reason", "is_so"),
    [
        ("failed to allocate RPC0[127.0.0.1:1] buffer of size 67108864", True),
        ("unable to allocate CUDA0 buffer", True),
        ("CUDA error: out of memory", True),
        ("vk::Device::allocateMemory: ErrorOutOfDeviceMemory", True),
        ("error loading model: tensor 'a' is not within the file bounds", False),
        ("", False),
    ],
)
def test_is_out_of_memory(reason: str, is_so: bool) -> None:
    assert is_out_of_memory(f"exited with status 1: {reason}; restarting in 1 s") is is_so

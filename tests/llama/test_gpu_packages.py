"""Which package gives llama-server a GPU, by release."""

import pytest

from magid.llama.gpu_packages import advice

NVIDIA, AMD = frozenset({"10de"}), frozenset({"1002"})
PACKAGED, OWN = "/usr/bin/llama-server", "/usr/local/bin/llama-server"
VULKAN = "apt install libggml0-backend-vulkan"
BACKPORTS = "apt install -t trixie-backports libggml0 libggml0-backend-vulkan"
BOOKWORM = {"ID": "debian", "VERSION_ID": "12", "PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)"}
TRIXIE = {"ID": "debian", "VERSION_ID": "13"}
FORKY = {"ID": "debian"}  # a release that is not out has no number
LATER = {"ID": "debian", "VERSION_ID": "14"}
NOBLE = {"ID": "ubuntu", "VERSION_ID": "24.04", "PRETTY_NAME": "Ubuntu 24.04 LTS"}
RESOLUTE = {"ID": "ubuntu", "VERSION_ID": "26.04"}
GGML = {"libggml0": "0.27.0-1~bpo13+1"}


@pytest.mark.parametrize(
    ("system", "vendors", "program", "installed", "run", "said"),
    [
        (BOOKWORM, NVIDIA, PACKAGED, {}, (), "Debian GNU/Linux 12 (bookworm) has no package"),
        (TRIXIE, NVIDIA, OWN, {}, (), "Debian 13 has no llama-server"),
        (TRIXIE, NVIDIA, OWN, GGML, (BACKPORTS,), "libggml0-backend-cuda is for an older"),
        (FORKY, NVIDIA, PACKAGED, {}, (VULKAN,), "libggml0-backend-cuda (CUDA) is in Debian unsta"),
        (LATER, AMD, PACKAGED, {}, (VULKAN,), "libggml0-backend-hip (ROCm, 1.2 GB) may be faster"),
        (FORKY, NVIDIA, OWN, {}, (), "/usr/local/bin/llama-server is another build"),
        (FORKY, NVIDIA, PACKAGED, {"libggml0-backend-vulkan": "0.27.0-1"}, (), "driver is what"),
        (NOBLE, NVIDIA, PACKAGED, {}, (), "Ubuntu 24.04 LTS has no package for it"),
        (RESOLUTE, NVIDIA, PACKAGED, {}, (VULKAN,), "(CUDA) is not in Ubuntu"),
        ({}, NVIDIA, PACKAGED, {}, (), "this system has no package for it"),
        ({"ID": "ubuntu", "VERSION_ID": "odd"}, AMD, PACKAGED, {}, (), "no package for it"),
    ],
)
def test_advice(
    system: dict[str, str],
    vendors: frozenset[str],
    program: str,
    installed: dict[str, str],
    run: tuple[str, ...],
    said: str,
) -> None:
    found = advice(system, vendors, program, installed)
    assert found.run == run
    assert said in found.text


def test_a_back_end_of_another_ggml_is_named_first() -> None:
    installed = {"libggml0": "0.27.0-1~bpo13+1", "libggml0-backend-cuda": "0.26.0-1~bpo13+1"}
    found = advice(TRIXIE, NVIDIA, OWN, installed)
    assert found.text.startswith("libggml0-backend-cuda is of ggml 0.26.0 and libggml0 of 0.27.0")
    assert found.run == ("apt remove libggml0-backend-cuda", VULKAN)

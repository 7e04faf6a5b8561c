"""Which packages give llama-server a GPU, on each release of Debian and Ubuntu. Pure.

Debian's llama-server loads back ends of ggml, which are packages of their own and never installed
by themselves. Source of the table: the releases' package lists in November 2026. libggml0 and its
back ends have to be of one version, or the back end is not loaded.

| release | llama-server | Vulkan, ROCm | CUDA |
| --- | --- | --- | --- |
| Debian 12 | none | none | none |
| Debian 13 | none | backports 0.27 | backports 0.26, for an older libggml0 |
| Debian 14 (forky) | 0.7.0 | 0.27 | only in unstable, contrib |
| Ubuntu 26.04 and later | universe | universe | none |
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from magid.host.display_controllers import AMD, NVIDIA

PACKAGES: Final = ("libggml0", "llama.cpp-tools")  # beginnings of the names that count here
_PROGRAM: Final = "/usr/bin/llama-server"  # of the package llama.cpp-tools
_VULKAN: Final = "libggml0-backend-vulkan"
_ROCM: Final = "libggml0-backend-hip"
_CUDA: Final = "libggml0-backend-cuda"
_ELSEWHERE: Final = (
    "use a llama-server that is built for it (CUDA, ROCm or Vulkan): `magictl engine add NAME "
    "ARCHIVE`, then `magictl engine use NAME`"
)


class PackageAdvice(Struct, frozen=True):
    """What to install. `run` is for root's shell; empty: this release has no package for it."""

    text: str  # one sentence, without a stop
    run: tuple[str, ...] = ()


def advice(
    system: Mapping[str, str], vendors: frozenset[str], program: str, installed: Mapping[str, str]
) -> PackageAdvice:
    """Returns how llama-server gets to see the GPUs of these vendors.

    `system` has the fields of os-release(5); `program` is llama-server's path; `installed` are the
    versions of packages whose names begin with one of `PACKAGES`.
    """
    if mismatch := _mismatch(installed):
        return mismatch
    release = _release(system)
    if program and program != _PROGRAM and release != "trixie":
        return PackageAdvice(
            f"packages of ggml's back ends are for {_PROGRAM} alone, and {program} is another "
            f"build; {_ELSEWHERE}"
        )
    if release == "trixie":
        return _on_trixie(vendors, installed)
    if release in ("forky", "ubuntu"):
        return _from_archive(release, vendors, installed)
    name = system.get("PRETTY_NAME", "this system")
    return PackageAdvice(f"{name} has no package for it; {_ELSEWHERE}")


def _release(system: Mapping[str, str]) -> str:
    """Returns `trixie`, `forky` (and later), `ubuntu` (26.04 and later), or "" for the others."""
    number = system.get("VERSION_ID", "")
    if system.get("ID") == "debian":
        if not number:  # releases that are not out yet have no number
            return "forky"
        return "trixie" if number == "13" else "forky" if _is_from(number, 14) else ""
    return "ubuntu" if system.get("ID") == "ubuntu" and _is_from(number, 26.04) else ""


def _is_from(number: str, least: float) -> bool:
    try:
        return float(number) >= least
    except ValueError:
        return False


def _mismatch(installed: Mapping[str, str]) -> PackageAdvice | None:
    """Names a back end that is installed and of another version of ggml than libggml0."""
    library = _upstream(installed.get("libggml0", ""))
    for name, version in sorted(installed.items()):
        if name.startswith("libggml0-backend-") and library and _upstream(version) != library:
            return PackageAdvice(
                f"{name} is of ggml {_upstream(version)} and libggml0 of {library}: they do not "
                "go together, so the back end is not loaded",
                (f"apt remove {name}", f"apt install {_VULKAN}"),
            )
    return None


def _upstream(version: str) -> str:
    """`0.27.0` of `1:0.27.0-1~bpo13+1`."""
    return version.rpartition(":")[2].partition("-")[0].partition("+")[0]


def _on_trixie(vendors: frozenset[str], installed: Mapping[str, str]) -> PackageAdvice:
    cuda = f"; its {_CUDA} is for an older libggml0" if NVIDIA in vendors else ""
    if "libggml0" not in installed:
        return PackageAdvice(
            "Debian 13 has no llama-server, and the back ends in trixie-backports are for one that "
            f"is built with its libggml0; {_ELSEWHERE}"
        )
    return PackageAdvice(
        f"trixie-backports has the back end for Vulkan, of the same ggml as its libggml0{cuda}",
        (f"apt install -t trixie-backports libggml0 {_VULKAN}",),
    )


def _from_archive(
    release: str, vendors: frozenset[str], installed: Mapping[str, str]
) -> PackageAdvice:
    if _VULKAN in installed:
        return PackageAdvice(
            f"{_VULKAN} is installed, so the GPU's own driver is what is missing: `magictl doctor` "
            "looks for it; `vulkaninfo --summary` (package vulkan-tools) lists what it offers"
        )
    more = ""
    if AMD in vendors:
        more = f"; {_ROCM} (ROCm, 1.2 GB) may be faster"
    elif NVIDIA in vendors:
        where = (
            "is in Debian unstable alone (contrib)" if release == "forky" else "is not in Ubuntu"
        )
        more = f"; {_CUDA} (CUDA) {where}"
    return PackageAdvice(
        f"its back end for Vulkan is not installed{more}", (f"apt install {_VULKAN}",)
    )

"""GPUs: what is on PCI, and what the drivers have made of it, by /sys, /proc and /dev alone."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from magid.doctor.collect.files import place
from magid.doctor.facts import Gpus
from magid.host import debian_packages, display_controllers
from magid.llama import gpu_packages
from magid.standalone.probe_sandbox import NODES

_LIBRARIES: Final = ("usr/lib", "usr/lib64", "usr/lib/*-linux-gnu")


def gpus(root: Path = Path("/")) -> Gpus:
    """Of the machine whose files are below `root`. Never raises."""
    nodes = sorted(path for pattern in NODES for path in root.glob(pattern.lstrip("/")))
    return Gpus(
        vendors=display_controllers.vendors(root),
        majors=frozenset(_majors(_text(root / "proc/devices"))),
        nodes=tuple(found for path in nodes if (found := place(path, root))),
        driver=_driver(_text(root / "proc/driver/nvidia/version")),
        libraries=tuple(sorted(_libraries(root))),
        system=_system(root),
        packages=debian_packages.installed(gpu_packages.PACKAGES, root),
    )


def _system(root: Path) -> dict[str, str]:
    """The fields of os-release(5)."""
    pairs = (line.partition("=") for line in _text(root / "etc/os-release").splitlines())
    return {key: value.strip("\"'") for key, _, value in pairs if value}


def _majors(text: str) -> Iterable[str]:
    characters, _, _ = text.partition("Block devices:")
    return re.findall(r"^ *\d+ (\S+)$", characters, re.MULTILINE)


def _driver(text: str) -> str:
    """Of `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu ...`."""
    found = re.search(r"Module\S*(?: for \S+)?\s+(\d+\.\d[\d.]*)", text)
    return found[1] if found else ""


def _libraries(root: Path) -> set[str]:
    """libcuda.so.1 is a link to libcuda.so.VERSION, which has to be the driver's own."""
    found = set()
    for folder in _LIBRARIES:
        for link in root.glob(f"{folder}/libcuda.so.1"):
            name = link.resolve().name.removeprefix("libcuda.so.")
            if "." in name:
                found.add(name)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

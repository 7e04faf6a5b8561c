"""The makers of the GPUs in this machine, as PCI has them: no driver is needed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

NVIDIA: Final = "10de"
AMD: Final = "1002"
INTEL: Final = "8086"
NAMES: Final = {NVIDIA: "NVIDIA", AMD: "AMD", INTEL: "Intel"}
_DISPLAY: Final = ("0x0300", "0x0302", "0x0380")  # VGA, 3D and other display controllers
_IN_PROCESSOR: Final = "0000:00:02.0"  # where Intel's processors have theirs


def vendors(root: Path = Path("/")) -> frozenset[str]:
    """Returns the vendors, as "10de". Leaves out what is part of an Intel processor. Never raises.

    Blocks for some milliseconds. `root` is the machine's.
    """
    return frozenset(_vendors(root.glob("sys/bus/pci/devices/*")))


def _vendors(devices: Iterable[Path]) -> Iterable[str]:
    for device in devices:
        if _text(device / "class").startswith(_DISPLAY):
            vendor = _text(device / "vendor").strip().removeprefix("0x")
            if vendor != INTEL or device.name != _IN_PROCESSOR:
                yield vendor


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

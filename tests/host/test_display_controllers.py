"""The GPUs on PCI, and dpkg's list of packages."""

from pathlib import Path

from magid.host.debian_packages import installed
from magid.host.display_controllers import vendors

STATUS = """\
Package: libggml0
Status: install ok installed
Version: 0.27.0-1

Package: libggml0-backend-cuda
Status: deinstall ok config-files
Version: 0.26.0-1

Package: libggml0-backend-vulkan
Status: install ok half-installed
Version: 0.27.0-1

Package: bash
Status: install ok installed
Version: 5.2
"""


def add(root: Path, address: str, kind: str, vendor: str) -> None:
    folder = root / "sys/bus/pci/devices" / address
    folder.mkdir(parents=True)
    (folder / "class").write_text(f"{kind}\n")
    (folder / "vendor").write_text(f"{vendor}\n")


def test_what_is_in_an_intel_processor_is_none(tmp_path: Path) -> None:
    add(tmp_path, "0000:00:02.0", "0x030000", "0x8086")
    add(tmp_path, "0000:00:1f.6", "0x020000", "0x8086")
    assert vendors(tmp_path) == frozenset()
    add(tmp_path, "0000:03:00.0", "0x038000", "0x8086")
    add(tmp_path, "0000:41:00.0", "0x030200", "0x10de")
    assert vendors(tmp_path) == {"8086", "10de"}
    assert vendors(tmp_path / "none") == frozenset()


def test_installed_packages(tmp_path: Path) -> None:
    assert installed(("libggml0",), tmp_path) == {}
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    assert installed(("libggml0",), tmp_path) == {"libggml0": "0.27.0-1"}

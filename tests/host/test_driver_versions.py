"""What tells that a GPU's driver has changed."""

import os
from pathlib import Path

from magid.host.driver_versions import fingerprint

ICD = "usr/share/vulkan/icd.d/radeon_icd.json"


def put(root: Path, name: str, text: str, at: float = 1.0) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (at, at))


def test_of_this_machine() -> None:
    assert len(fingerprint()) == 16
    assert fingerprint() == fingerprint()


def test_each_change_shows(tmp_path: Path) -> None:
    seen = [fingerprint(tmp_path)]
    for name, text, at in (
        ("sys/module/nvidia/version", "550.54.14\n", 1.0),
        ("sys/module/nvidia/version", "560.35.03\n", 1.0),
        (ICD, "{}", 1.0),
        (ICD, "{}", 2.0),
        ("usr/lib/x86_64-linux-gnu/ggml/backends0/libggml-vulkan.so", "", 1.0),
        ("usr/lib/x86_64-linux-gnu/libcuda.so.1", "", 1.0),
    ):
        put(tmp_path, name, text, at)
        seen.append(fingerprint(tmp_path))
    assert len(set(seen)) == len(seen)
    assert fingerprint(tmp_path) == seen[-1]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    before = fingerprint(tmp_path)
    (tmp_path / "sys/module/nvidia/version").mkdir(parents=True)
    (tmp_path / "usr/share/vulkan/icd.d").mkdir(parents=True)
    assert fingerprint(tmp_path) == before
    (tmp_path / ICD).symlink_to("missing")
    assert fingerprint(tmp_path) == before

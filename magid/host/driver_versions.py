"""Which versions of GPU drivers and of their libraries this machine has, as one short text.

The kernel (of which most drivers are part), modules that state a version of their own (NVIDIA's,
and those of DKMS packages), and the files that a program loads to use a GPU: of Vulkan, CUDA and
ROCm, and ggml's back ends where packages have them. A file counts by its size and its time, which
is that of the package's build.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_MODULES: Final = ("nvidia", "amdgpu", "xe", "i915")
_FILES: Final = (
    "usr/share/vulkan/icd.d/*.json",
    "etc/vulkan/icd.d/*.json",
    "usr/lib/*/libcuda.so.1",
    "usr/lib/*/libamdhip64.so.*",
    "usr/lib/*/ggml/backends*/*.so",
)


def fingerprint(root: Path = Path("/")) -> str:
    """Returns 16 hex digits; other ones after a driver has changed. Never raises.

    Blocks for a few milliseconds. `root` is the machine's.
    """
    modules = [_text(root / "sys/module" / name / "version") for name in _MODULES]
    said = json.dumps([os.uname().release, modules, sorted(_files(root))])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _files(root: Path) -> Iterator[tuple[str, int, int]]:
    for pattern in _FILES:
        for path in root.glob(pattern):
            try:
                status = path.stat()
            except OSError:
                continue
            yield os.fsdecode(path), status.st_size, status.st_mtime_ns


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""

"""read_ahead.py: what it asks the kernel for, by what is in memory afterwards."""

import ctypes
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from magid.standalone import read_ahead
from tests.support.deadlines import DEADLINE_S

SIZE = 8 * 1024 * 1024


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """On the disk, and not in memory."""
    path = tmp_path / "model.gguf"
    path.write_bytes(os.urandom(SIZE))
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)
    if in_memory(path) > 0.1:
        pytest.skip("the files of this folder are always in memory")
    return path


def in_memory(path: Path) -> float:
    """The share of the file that is in the page cache (mincore)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    pages = SIZE // mmap.PAGESIZE
    with path.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as mapped:
        start = ctypes.c_char.from_buffer(mapped)
        seen = ctypes.create_string_buffer(pages)
        assert libc.mincore(ctypes.addressof(start), SIZE, seen) == 0
        del start
    return sum(byte & 1 for byte in seen.raw[:pages]) / pages


def test_the_whole_file_gets_into_memory(model: Path, tmp_path: Path) -> None:
    """Whatever is beside it: a file that is not there, a folder, a pipe."""
    os.mkfifo(tmp_path / "pipe")
    files = [tmp_path / "absent", tmp_path, tmp_path / "pipe", model]
    done = subprocess.run(
        [sys.executable, "-I", "-S", read_ahead.__file__, *files],
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    deadline = time.monotonic() + DEADLINE_S
    while in_memory(model) < 0.99:
        assert time.monotonic() < deadline


def test_no_more_than_fits(model: Path) -> None:
    assert read_ahead.ask_for(str(model), SIZE // 4) == SIZE // 4
    assert in_memory(model) < 0.9
    assert read_ahead.available_bytes() > SIZE
